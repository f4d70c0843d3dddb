/// \file
/// What crosses a model's cut, for any pictures and views of a data set: computed once by the inference engine and
/// kept, or, where nothing is frozen below the cut, the prepared pictures themselves.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include <transferlib/core/environment.hpp>
#include <transferlib/core/hash.hpp>
#include <transferlib/data/preprocess.hpp>
#include <transferlib/engine/cache.hpp>
#include <transferlib/engine/engine.hpp>
#include <transferlib/model/backbone.hpp>
#include <transferlib/train/source.hpp>

namespace transferlib::detail {

class FeatureSource {
 public:
  /// \param epoch_views where the augmentation is continuous, how many of its views are kept; 0: none, each epoch draws
  /// anew
  FeatureSource(const BackboneCore& core, const Cut& cut, Source source, Precision precision, const CacheOptions& cache,
                std::uint64_t seed)
      : core_(&core), cut_(cut), source_(std::move(source)), seed_(seed), device_(core.device()) {
    if (cut_.boundary <= 1) return;
    const Index input[3] = {core.options.in_channels, core.size(), core.size()};
    engine_ = std::make_shared<const Engine>(core.graph, cut_.live, input,
                                             EngineOptions{.precision = precision, .piece = piece});
    if (!cache.enabled || !source_.views.has_value()) return;
    std::vector<CachedTensor> layout;
    for (Index step : cut_.live)
      layout.push_back({core.measure.shapes[Graph::at(step)],
                        step == core.graph.pooled ? at::kFloat : scalar_type(engine_->precision())});
    std::string description, key;
    CacheOptions options = cache;
    // What a transform makes that can't tell what it does (a centre crop changes pictures too) is kept for this run
    // only.
    if (source_.augmentation.empty()) options.folder.clear();
    if (!options.folder.empty()) std::tie(key, description) = identity();
    cache_ =
        std::make_unique<ActivationCache>(source_.size * *source_.views, std::move(layout), key, description, options);
  }

  Index size() const { return source_.size; }
  const Source& source() const { return source_; }
  const ActivationCache* cache() const { return cache_.get(); }
  const Engine* engine() const { return engine_.get(); }

  /// Computes everything that the cache has room for and lacks, piece by piece in the order of the pictures, so that
  /// every run computes the same pieces. `report(done, all)` after each; stops early when told to.
  void fill(const std::stop_token& stop, const std::function<void(Index, Index)>& report) {
    if (cache_ == nullptr || stop.stop_requested()) return;
    cache_->begin();
    struct Finish {
      ActivationCache* cache;
      ~Finish() { cache->finish(); }
    } const finish{cache_.get()};
    const Index all = cache_->rows();
    if (cache_->count() == all) return;
    for (Index view = 0; view < *source_.views; ++view)
      for (Index from = 0; from < source_.size && !cache_->full(); from += piece) {
        if (stop.stop_requested()) return;
        std::vector<Index> ids, rows;
        bool missing = false;
        for (Index i = from; i < std::min(from + piece, source_.size); ++i) {
          ids.push_back(i);
          rows.push_back(view * source_.size + i);
          missing = missing || !cache_->has(rows.back());
        }
        if (missing) cache_->put(rows, compute(ids, std::vector<Index>(ids.size(), view)));
        if (report) report(view * source_.size + from + static_cast<Index>(ids.size()), all);
      }
  }

  /// What crosses the cut for these pictures in this epoch, on the model's device, and their targets. Tensors that go
  /// on into the network are float32.
  std::pair<Activations, Batch> batch(std::span<const Index> ids, Index epoch) const {
    std::vector<Index> views;
    for (Index id : ids)
      views.push_back(source_.augment == nullptr ? 0
                      : source_.views            ? draw_view(*source_.views, seed_, epoch, id)
                                                 : epoch);
    std::pair<Activations, Batch> out;
    if (cache_ != nullptr) {
      std::vector<Index> rows;
      bool complete = true;
      for (std::size_t i = 0; i < ids.size(); ++i) {
        rows.push_back(views[i] * source_.size + ids[i]);
        complete = complete && cache_->has(rows.back());
      }
      if (complete) {
        out.first = cache_->get(rows);
        out.second.target = source_.targets(ids);
      }
    }
    if (out.first.empty()) out.first = compute(ids, views, &out.second);
    // Maps in one memory format, wherever they come from: the layers behind the cut round by it.
    for (Tensor& t : out.first) {
      t = t.to(device_, at::kFloat);
      if (t.dim() == 4) t = t.contiguous(at::MemoryFormat::ChannelsLast);
    }
    out.second.target = out.second.target.to(device_);
    return out;
  }

 private:
  static constexpr Index piece = 32;

  Activations compute(std::span<const Index> ids, const std::vector<Index>& views, Batch* keep = nullptr) const {
    Batch batch = source_.get(ids);
    if (source_.augment != nullptr) {
      std::vector<Draw> draws;
      for (std::size_t i = 0; i < ids.size(); ++i) draws.push_back({seed_, views[i], ids[i]});
      source_.augment(batch, draws);
    }
    const Tensor x = preprocess(batch, core_->preprocessing, core_->options.in_channels);
    if (keep != nullptr) *keep = batch;
    if (engine_ == nullptr) return {x};
    if (x.size(0) <= piece) return (*engine_)(x);
    // In pieces, so that memory stays flat and a picture's values do not depend on the size of the batch.
    std::vector<Activations> parts;
    for (Index from = 0; from < x.size(0); from += piece)
      parts.push_back((*engine_)(x.narrow(0, from, std::min(piece, x.size(0) - from))));
    Activations out;
    for (std::size_t t = 0; t < parts.front().size(); ++t) {
      std::vector<Tensor> column;
      for (const Activations& part : parts) column.push_back(part[t]);
      out.push_back(at::cat(column));
    }
    return out;
  }

  /// What the prefix makes of one made-up picture: tells apart what neither weights nor structure do, as strides, or
  /// the code of a user's own network.
  StateDict answer() const {
    const Index size = core_->size(), channels = core_->options.in_channels;
    const Tensor picture =
        at::arange(channels * size * size, at::kFloat).mul_(0.7).sin_().view({1, channels, size, size});
    StateDict out;
    for (const Tensor& t : (*engine_)(picture)) out.emplace_back(text("value ", out.size()), t.cpu());
    return out;
  }

  /// The cache's key, and what went into it.
  std::pair<std::string, std::string> identity() const {
    const auto environment = Environment::here(device_);
    const Preprocessing& p = core_->preprocessing;
    std::string structure;
    for (const Step& step : core_->graph.steps) {
      structure += text(to_string(step.kind), " ", to_string(step.activation));
      for (Index f : step.from) structure += text(" ", f);
      structure += ";";
    }
    std::string words =
        text("network ", core_->name, "\nweights ", hash_of(needed_state(*core_, cut_.live)), "\nstructure ",
             Sha256().add(structure).hex(), "\nanswer ", hash_of(answer()), "\nboundary ", cut_.boundary, "\nsize ",
             p.size, "\nmean ", p.mean[0], " ", p.mean[1], " ", p.mean[2], "\ndeviation ", p.deviation[0], " ",
             p.deviation[1], " ", p.deviation[2], "\ninterpolation ", static_cast<int>(p.interpolation), "\ncrop ",
             p.crop_fraction, "\ndata ", source_.fingerprint(), "\nviews ", *source_.views, "\naugmentation ",
             source_.augmentation, "\nprecision ", to_string(engine_->precision()), "\npiece ", piece, "\ntransferlib ",
             environment.transferlib, "\nlibtorch ", environment.libtorch, "\ncpu ", environment.cpu_capability,
             "\ndevice ", environment.device, "\nthreads ", environment.threads, "\n");
    return {Sha256().add(words).hex().substr(0, 32), words};
  }

  const BackboneCore* core_;
  Cut cut_;
  Source source_;
  std::uint64_t seed_;
  torch::Device device_;
  std::shared_ptr<const Engine> engine_;
  std::unique_ptr<ActivationCache> cache_;
};

}  // namespace transferlib::detail
