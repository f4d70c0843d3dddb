/// \file
/// What crosses a model's cut, for any pictures and views of a data set: computed once by the inference engine and
/// kept, or, where nothing is frozen below the cut, the prepared pictures themselves.
#pragma once

#include <algorithm>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <transferlib/core/environment.hpp>
#include <transferlib/core/hash.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/data/loader.hpp>
#include <transferlib/data/preprocess.hpp>
#include <transferlib/engine/cache.hpp>
#include <transferlib/engine/cache_folder.hpp>
#include <transferlib/engine/engine.hpp>
#include <transferlib/model/backbone.hpp>
#include <transferlib/train/source.hpp>

namespace transferlib::detail {

class FeatureSource {
 public:
  /// \param workers threads that prepare the next pictures while the network runs; see `LoaderOptions`
  FeatureSource(const BackboneCore& core, const Cut& cut, Source source, Precision precision, const CacheOptions& cache,
                std::uint64_t seed, Index workers);

  Index size() const { return source_.size; }
  const Source& source() const { return source_; }
  const ActivationCache* cache() const { return cache_.get(); }
  const Engine* engine() const { return engine_.get(); }
  /// Why nothing of an earlier run could be used, where there was one like it.
  const std::string& why() const { return why_; }

  /// Computes what the cache has room for and lacks, piece by piece in the order of the pictures, so that every run
  /// like it computes the same pieces: of the views those that the first `epochs` epochs draw, or all (0).
  /// `report(done, all)` after each; stops early when told to.
  void fill(const std::stop_token& stop, const std::function<void(Index, Index)>& report, Index epochs = 0);

  /// How many rows of the cache these epochs need; 0 where nothing is cached.
  Index needed(Index epochs = 0) const {
    Index out = 0;
    if (cache_ != nullptr)
      for (const auto& view : needed_rows(epochs)) out += static_cast<Index>(view.size());
    return out;
  }

  /// How pictures are passed through.
  struct Batches {
    Index size = 1;  ///< pictures; the last one is smaller
    Index epoch = 0;
    std::stop_token stop{};                ///< ends it at once
    std::stop_token drain{};               ///< see `LoaderOptions`: for who must end a step before he stops
    Precision autocast = Precision::fp32;  ///< in which what crosses the cut is to be computed with
    Index first = 0;                       ///< the number of the first batch, which mixing is drawn from
  };

  /// Calls `use` for each batch of the pictures in `order`: which pictures they are, what crosses the cut for them in
  /// this epoch, on the model's device, and their targets. Tensors that go on into the network are float32, or, on the
  /// CPU where autocast would round them to bfloat16 at once and they are that already, bfloat16. \throws Stopped
  void for_each_batch(
      std::span<const Index> order, const Batches& how,
      const std::function<void(std::span<const Index> ids, const Activations&, const Batch&)>& use) const;

 private:
  static constexpr Index piece = 32;

  /// The rows of each view that these epochs need, in the order of the pictures.
  std::vector<std::vector<Index>> needed_rows(Index epochs) const;

  /// Which view each picture shows in an epoch; view and picture as one number, by which the cache knows them.
  std::vector<Index> rows_of(std::span<const Index> ids, Index epoch) const;

  bool is_cached(std::span<const Index> rows) const {
    return cache_ != nullptr && std::all_of(rows.begin(), rows.end(), [&](Index row) { return cache_->has(row); });
  }

  /// The network's input, as the one block of `pictures`, and the targets. Called by several threads.
  /// \param side of the pictures, in pixels; 0: the model's
  Batch prepare(std::span<const Index> rows, Index side = 0) const;

  /// The same without the pictures, which the cache has the features of. An augmentation that moves boxes sees the
  /// pictures too.
  Batch prepared_targets(std::span<const Index> rows) const;

  Activations compute(const Tensor& x) const;

  /// What the prefix makes of one made-up picture: tells apart what neither weights nor structure do, as strides, or
  /// the code of a user's own network.
  StateDict answer() const;

  /// The cache's key, and what went into it.
  std::pair<std::string, std::string> identity(Precision kept) const;

  const BackboneCore* core_;
  Cut cut_;
  Source source_;
  std::uint64_t seed_;
  Index workers_;
  torch::Device device_;
  std::shared_ptr<const Engine> engine_;
  std::unique_ptr<ActivationCache> cache_;
  std::string why_;
};

}  // namespace transferlib::detail

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API FeatureSource::FeatureSource(const BackboneCore& core, const Cut& cut, Source source,
                                             Precision precision, const CacheOptions& cache, std::uint64_t seed,
                                             Index workers)
    : core_(&core), cut_(cut), source_(std::move(source)), seed_(seed), workers_(workers), device_(core.device()) {
  if (cut_.boundary <= 1) return;
  if (source_.side)
    throw OptionError(
        "training at several sizes (multi_scale) trains a network from its first layer on, and the first layers are "
        "frozen: freeze none of them, or leave multi_scale out");
  const Index input[3] = {core.options.in_channels, core.size(), core.size()};
  engine_ = std::make_shared<const Engine>(core.graph, cut_.live, input,
                                           EngineOptions{.precision = precision, .piece = piece});
  // What is mixed is another picture at each step.
  if (!cache.enabled || !source_.views.has_value() || source_.mix) return;
  std::vector<CachedTensor> layout;
  for (Index step : cut_.live) {
    const Precision own = step == core.graph.pooled ? Precision::fp32 : engine_->precision();
    layout.push_back({core.measure.shapes[Graph::at(step)],
                      scalar_type(cache.precision == Precision::automatic ? own : cache.precision)});
  }
  std::string description, key;
  CacheOptions options = cache;
  // What a transform makes that can't tell what it does (a centre crop changes pictures too) is kept for this run
  // only.
  if (source_.augmentation.empty()) options.folder.clear();
  if (!options.folder.empty()) {
    std::tie(key, description) = identity(cache.precision);
    std::error_code ignored;
    if (!std::filesystem::exists(options.folder / (key + ".activations"), ignored))
      why_ = why_no_cache(options.folder, description, source_.size * *source_.views);
  }
  cache_ =
      std::make_unique<ActivationCache>(source_.size * *source_.views, std::move(layout), key, description, options);
}

TRANSFERLIB_API std::vector<std::vector<Index>> FeatureSource::needed_rows(Index epochs) const {
  std::vector<std::vector<Index>> out(static_cast<std::size_t>(*source_.views));
  const bool draws = source_.augment != nullptr && epochs > 0;
  for (Index id = 0; id < source_.size; ++id) {
    std::vector<bool> shown(out.size(), !draws);
    // A few epochs have drawn every view: the others need not be looked at.
    auto left = static_cast<Index>(out.size());
    for (Index epoch = 1; draws && epoch <= epochs && left > 0; ++epoch) {
      auto view = shown[static_cast<std::size_t>(draw_view(*source_.views, seed_, epoch, id))];
      left -= view ? 0 : 1;
      view = true;
    }
    for (std::size_t view = 0; view < out.size(); ++view)
      if (shown[view]) out[view].push_back(static_cast<Index>(view) * source_.size + id);
  }
  return out;
}

TRANSFERLIB_API void FeatureSource::fill(const std::stop_token& stop, const std::function<void(Index, Index)>& report,
                                         Index epochs) {
  if (cache_ == nullptr || stop.stop_requested()) return;
  cache_->begin();
  struct Finish {
    ActivationCache* cache;
    ~Finish() { cache->finish(); }
  } const finish{cache_.get()};
  std::vector<std::vector<Index>> missing;
  Index done = 0, all = 0;
  for (const auto& view : needed_rows(epochs))
    for (std::size_t from = 0; from < view.size(); from += piece) {
      const auto rows = std::span(view).subspan(from, std::min<std::size_t>(piece, view.size() - from));
      all += static_cast<Index>(rows.size());
      if (is_cached(rows))
        done += static_cast<Index>(rows.size());
      else
        missing.emplace_back(rows.begin(), rows.end());
    }
  try {
    Loader loader(static_cast<Index>(missing.size()),
                  [&](Index i) { return prepare(missing[static_cast<std::size_t>(i)]); },
                  {.workers = workers_, .stop = stop});
    for (const auto& rows : missing) {
      if (cache_->full()) return;
      cache_->put(rows, compute(loader.next()->pictures[0]));
      done += static_cast<Index>(rows.size());
      if (report) report(done, all);
    }
  } catch (const Stopped&) {
  }
}

TRANSFERLIB_API void FeatureSource::for_each_batch(
    std::span<const Index> order, const Batches& how,
    const std::function<void(std::span<const Index> ids, const Activations&, const Batch&)>& use) const {
  const Index size = how.size, epoch = how.epoch;
  const Index all = static_cast<Index>(order.size());
  const auto ids = [&](Index i) {
    return order.subspan(static_cast<std::size_t>(i * size), static_cast<std::size_t>(std::min(size, all - i * size)));
  };
  // Without pictures where the cache has all that is asked for.
  const auto prepared = [&](Index i) {
    const auto rows = rows_of(ids(i), epoch);
    if (is_cached(rows)) return prepared_targets(rows);
    Batch batch = prepare(rows, source_.side ? source_.side(how.first + i) : 0);
    if (source_.mix) source_.mix(batch, how.first + i);
    return batch;
  };
  const bool complete = cache_ != nullptr && is_cached(rows_of(order, epoch));
  Loader loader((all + size - 1) / size, prepared,
                {.workers = complete ? 0 : workers_, .stop = how.stop, .drain = how.drain});
  for (Index i = 0; auto batch = loader.next(); ++i) {
    Activations activations =
        batch->pictures.empty() ? cache_->get(rows_of(ids(i), epoch)) : compute(batch->pictures[0]);
    // In one memory format and rounded alike, wherever they come from: the layers behind the cut round by it.
    for (std::size_t k = 0; k < activations.size(); ++k) {
      Tensor& t = activations[k];
      if (cache_ != nullptr) t = t.to(cache_->layout()[k].type);
      const bool stays = t.scalar_type() == at::kBFloat16 && device_.is_cpu() && how.autocast == Precision::bf16;
      if (!stays) t = t.to(device_, at::kFloat);
      if (t.dim() == 4) t = t.contiguous(at::MemoryFormat::ChannelsLast);
    }
    batch->target = batch->target.to(device_);
    use(ids(i), activations, *batch);
  }
}

TRANSFERLIB_API std::vector<Index> FeatureSource::rows_of(std::span<const Index> ids, Index epoch) const {
  std::vector<Index> out;
  for (Index id : ids) {
    const Index view = source_.augment == nullptr ? 0
                       : source_.views            ? draw_view(*source_.views, seed_, epoch, id)
                                                  : epoch;
    out.push_back(view * source_.size + id);
  }
  return out;
}

TRANSFERLIB_API Batch FeatureSource::prepare(std::span<const Index> rows, Index side) const {
  Preprocessing p = core_->preprocessing;
  if (side > 0) p.size = side;
  std::vector<Index> ids;
  for (Index row : rows) ids.push_back(row % source_.size);
  Batch batch = source_.get(ids);
  if (source_.augment != nullptr) {
    std::vector<Draw> draws;
    for (Index row : rows) draws.push_back({seed_, row / source_.size, row % source_.size});
    source_.augment(batch, draws);
  }
  // Boxes go where their pictures go.
  if (source_.boxes) {
    batch.sizes = sizes_of(batch);
    batch.target = move_targets(batch, p);
  }
  // As the engine would round them; mixing and a network that is trained whole want float32.
  const auto type = engine_ != nullptr && !source_.mix ? engine_->input_type() : at::kFloat;
  batch.pictures = {preprocess(batch, p, core_->options.in_channels, ids, type)};
  return batch;
}

TRANSFERLIB_API Batch FeatureSource::prepared_targets(std::span<const Index> rows) const {
  Batch batch;
  if (source_.boxes && source_.augment != nullptr) {
    batch = prepare(rows);
    batch.pictures.clear();
    return batch;
  }
  std::vector<Index> ids;
  for (Index row : rows) ids.push_back(row % source_.size);
  batch = source_.targets(ids);
  if (source_.boxes) batch.target = move_targets(batch, core_->preprocessing);
  return batch;
}

TRANSFERLIB_API Activations FeatureSource::compute(const Tensor& x) const {
  if (engine_ == nullptr) return {x};
  if (x.size(0) <= piece) return (*engine_)(x);
  // In pieces, so that memory stays flat and a picture's values do not depend on the size of the batch; of one size,
  // since a short last one takes nearly as long as a whole one.
  const Index count = (x.size(0) + piece - 1) / piece, each = (x.size(0) + count - 1) / count;
  std::vector<Activations> parts;
  for (Index from = 0; from < x.size(0); from += each)
    parts.push_back((*engine_)(x.narrow(0, from, std::min(each, x.size(0) - from))));
  Activations out;
  for (std::size_t t = 0; t < parts.front().size(); ++t) {
    std::vector<Tensor> column;
    for (const Activations& part : parts) column.push_back(part[t]);
    out.push_back(at::cat(column));
  }
  return out;
}

TRANSFERLIB_API StateDict FeatureSource::answer() const {
  const Index size = core_->size(), channels = core_->options.in_channels;
  const Tensor picture =
      at::arange(channels * size * size, at::kFloat).mul_(0.7).sin_().view({1, channels, size, size});
  StateDict out;
  for (const Tensor& t : (*engine_)(picture)) out.emplace_back(text("value ", out.size()), t.cpu());
  return out;
}

TRANSFERLIB_API std::pair<std::string, std::string> FeatureSource::identity(Precision kept) const {
  const auto environment = Environment::here(device_);
  const Preprocessing& p = core_->preprocessing;
  std::string structure;
  for (const Step& step : core_->graph.steps) {
    structure += text(to_string(step.kind), " ", to_string(step.activation));
    for (Index f : step.from) structure += text(" ", f);
    structure += ";";
  }
  std::string words = text(
      "network ", core_->name, "\nweights ", hash_of(needed_state(*core_, cut_.live)), "\nstructure ",
      Sha256().add(structure).hex(), "\nanswer ", hash_of(answer()), "\nboundary ", cut_.boundary, "\nsize ", p.size,
      "\nmean ", p.mean[0], " ", p.mean[1], " ", p.mean[2], "\ndeviation ", p.deviation[0], " ", p.deviation[1], " ",
      p.deviation[2], "\ninterpolation ", static_cast<int>(p.interpolation), "\nfit ", to_string(p.fit), "\ncrop ",
      p.crop_fraction, "\ndata ", source_.fingerprint(), "\nviews ", *source_.views, "\naugmentation ",
      source_.augmentation, "\nprecision ", to_string(engine_->precision()), "\nkept ", to_string(kept), "\npiece ",
      engine_->options().piece, "\ntransferlib ", environment.transferlib, "\nlibtorch ", environment.libtorch,
      "\ncpu ", environment.cpu_capability, "\ndevice ", environment.device, "\nthreads ", environment.threads, "\n");
  return {Sha256().add(words).hex().substr(0, 32), words};
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES
