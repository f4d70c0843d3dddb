// Training: equal runs, with and without the cache and from its file; callbacks, stopping, metrics, what each head
// learns, and each error's sentence.
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <set>
#include <span>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include <transferlib/core/files.hpp>
#include <transferlib/data/transforms.hpp>
#include <transferlib/metrics/classification.hpp>
#include <transferlib/model/save.hpp>
#include <transferlib/report/csv.hpp>
#include <transferlib/report/run_folder.hpp>
#include <transferlib/report/svg.hpp>
#include <transferlib/train/callbacks.hpp>
#include <transferlib/train/trainer.hpp>

#include "toys.hpp"

namespace tl = transferlib;
using namespace toys;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::StartsWith;

namespace {

using Model = tl::Classifier<SqueezeNet, tl::Linear>;

Model toy_model(std::uint64_t seed = 1) {
  return {lively<SqueezeNet>(16, seed), tl::FreezePolicy<tl::FreezeAll>{}, tl::Head<tl::Linear>{}, colours};
}

/// A history without the time that it took.
std::vector<std::vector<std::pair<std::string, double>>> numbers(const tl::History& history) {
  std::vector<std::vector<std::pair<std::string, double>>> out;
  for (const tl::Epoch& epoch : history.epochs) {
    out.emplace_back();
    for (const auto& value : epoch.values)
      if (value.first != "seconds") out.back().push_back(value);
  }
  return out;
}

std::string file_hash(const std::filesystem::path& path) { return tl::sha256(tl::MappedFile::open(path)->bytes()); }

/// The caches in a folder.
std::vector<std::filesystem::path> caches(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> out;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.path().extension() == ".activations") out.push_back(entry.path());
  return out;
}

/// Counts the pictures that the frozen part has run over.
struct CountFeatures {
  Index computed = 0;
  void on_progress(const tl::Progressed& p) {
    if (p.phase == "features") computed = p.done;
  }
};

/// Data that has nothing but what a data set must have, and may be wrong.
struct PlainData {
  using Target = tl::ClassIndex;
  Tensor pictures, target;
  tl::Labels names = colours;
  Index size() const { return pictures.size(0); }
  tl::Batch batch(std::span<const Index> ids) const {
    const Tensor index = at::tensor(at::ArrayRef<Index>(ids.data(), ids.size()), at::kLong);
    return {{pictures.index_select(0, index)}, target.index_select(0, index), {}};
  }
  tl::Labels labels() const { return names; }
};

}  // namespace

TEST_CASE("A new head on a frozen network learns, and the same run gives the same numbers") {
  const auto train = colour_data(96, 16, 1), val = colour_data(48, 16, 2);
  const tl::TrainerOptions options{.epochs = 6, .batch = 16, .optimizer = tl::Adam{.lr = 1e-2}};
  auto model = toy_model();
  const tl::History history = tl::Trainer{model, options}.fit(train, val);
  REQUIRE(history.epochs.size() == 6);
  std::vector<std::string> names;
  for (const auto& value : history.epochs[0].values) names.push_back(value.first);
  CHECK(names == std::vector<std::string>{"train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds"});
  for (Index i = 0; i < 6; ++i) CHECK(history.epochs[static_cast<std::size_t>(i)].number == i + 1);
  CHECK(history["val_accuracy"].back() > 0.9);
  CHECK(history["val_loss"].back() < history["val_loss"].front());
  CHECK(history["train_loss"].back() < history["train_loss"].front());
  auto again = toy_model();
  CHECK(numbers(tl::Trainer{again, options}.fit(train, val)) == numbers(history));
  CHECK(same_bytes(snapshot(again.head()), snapshot(model.head())));
  auto other = toy_model();
  auto reseeded = options;
  reseeded.seed = 1;
  CHECK(numbers(tl::Trainer{other, reseeded}.fit(train, val)) != numbers(history));
  // What fit measured last, evaluate measures.
  const auto values = tl::evaluate(model, val, options);
  CHECK(values[0].first == "loss");
  CHECK(values[0].second == history["val_loss"].back());
  CHECK(values[1].second == history["val_accuracy"].back());
}

TEST_CASE("Training, by every optimiser, reaches a lower loss; in bf16 and in fp32") {
  const auto train = colour_data(64), val = colour_data(32, 16, 2);
  for (const tl::Optimizer& optimizer :
       {tl::Optimizer{tl::Sgd{.lr = 0.1}}, tl::Optimizer{tl::Sgd{.lr = 0.05, .momentum = 0.9, .nesterov = true}},
        tl::Optimizer{tl::Adam{.lr = 1e-2}}, tl::Optimizer{tl::AdamW{.lr = 1e-2}}})
    for (tl::Precision precision : {tl::Precision::fp32, tl::Precision::bf16}) {
      auto model = toy_model();
      const auto history =
          tl::Trainer{model, {.epochs = 4, .batch = 16, .optimizer = optimizer, .precision = precision}}.fit(train,
                                                                                                             val);
      CHECK(history["train_loss"].back() < 0.8 * history["train_loss"].front());
    }
}

TEST_CASE("Fine-tuning above a cut inside a block learns too, cached and not alike") {
  const auto train = colour_data(64), val = colour_data(32, 16, 2);
  const auto run = [&](const tl::CacheOptions& cache) {
    tl::Classifier model{lively<SqueezeNet>(16), tl::FreezePolicy<tl::FreezeUntil>{{"block.project"}},
                         tl::Head<tl::Linear>{{.dropout = 0.1}}, colours};
    REQUIRE(model.cut().live.size() == 2);
    const tl::TrainerOptions options{.epochs = 3, .batch = 32, .optimizer = tl::Adam{.lr = 3e-3}, .cache = cache};
    const auto history = tl::Trainer{model, options}.fit(train, val);
    return std::pair(numbers(history), snapshot(*model.backbone_core().network));
  };
  const auto cached = run({}), plain = run({.enabled = false}), limited = run({.limit = 64 << 10});
  CHECK(cached.first.back()[0].second < cached.first.front()[0].second);
  CHECK(cached.first == plain.first);
  CHECK(same_bytes(cached.second, plain.second));
  CHECK(cached.first == limited.first);
  CHECK(same_bytes(cached.second, limited.second));
}

TEST_CASE("The cache is an optimisation: off, limited, in memory and in a file give one history") {
  const auto train = colour_data(96), val = colour_data(32, 16, 2);
  const Folder folder;
  const auto run = [&](const tl::CacheOptions& cache, const auto& data) {
    auto model = toy_model();
    const auto history =
        tl::Trainer{model, {.epochs = 3, .batch = 32, .optimizer = tl::Adam{.lr = 1e-2}, .cache = cache}}.fit(data,
                                                                                                              val);
    return std::pair(numbers(history), snapshot(model.head()));
  };
  const auto expect_equal = [&](const auto& data, const std::filesystem::path& place) {
    const auto memory = run({}, data);
    // A row is 48 bytes of pooled features, which take 64: there is room for the half of them.
    for (const tl::CacheOptions& cache :
         {tl::CacheOptions{.enabled = false}, tl::CacheOptions{.limit = 48 * 64}, tl::CacheOptions{.limit = 0},
          tl::CacheOptions{.folder = place}, tl::CacheOptions{.folder = place}}) {
      const auto other = run(cache, data);
      CHECK(other.first == memory.first);
      CHECK(same_bytes(other.second, memory.second));
    }
    return memory.first;
  };
  const auto plain = expect_equal(train, folder / "plain");
  SECTION("with views: a flip is kept as two pictures, of which those are computed that an epoch draws") {
    const auto flipped = tl::augment(train, tl::Flip{});
    CHECK(expect_equal(flipped, folder / "flipped") != plain);
    for (const Index epochs : {1, 3, 20}) {
      auto model = toy_model();
      CountFeatures count;
      tl::Trainer{model, {.epochs = epochs}}.fit(flipped, val, count);
      Index drawn = 0;
      for (Index id = 0; id < 96; ++id) {
        std::set<Index> views;
        for (Index epoch = 1; epoch <= epochs; ++epoch) views.insert(tl::draw_view(2, 0, epoch, id));
        drawn += static_cast<Index>(views.size());
      }
      CHECK(drawn >= (epochs == 20 ? 190 : 96));
      CHECK(count.computed == drawn + 32);
    }
  }
  SECTION("a continuous augmentation is drawn anew each epoch, and kept nowhere") {
    const auto cropped = tl::augment(train, tl::RandomResizedCrop{.size = 16});
    const auto a = run({}, cropped);
    CHECK(a.first == run({.folder = folder / "cropped"}, cropped).first);
    CHECK(caches(folder / "cropped").size() == 1);  // of the validation data alone
    CHECK(a.first != plain);
  }
}

TEST_CASE("A second run starts from the file and ends with the same bytes") {
  const auto train = colour_data(70), val = colour_data(33, 16, 2);  // the last piece is not full
  const Folder folder;
  const auto run = [&](const char* name) {
    auto model = toy_model();
    tl::Trainer trainer{
        model, {.epochs = 3, .batch = 20, .optimizer = tl::Adam{.lr = 1e-2}, .cache = {.folder = folder / "cache"}}};
    CountFeatures count;
    auto history = numbers(trainer.fit(train, val, count));
    tl::save(model, folder / name);
    return std::pair(std::move(history), count.computed);
  };
  const auto first = run("first.safetensors"), second = run("second.safetensors");
  CHECK(first.first == second.first);
  CHECK(file_hash(folder / "first.safetensors") == file_hash(folder / "second.safetensors"));
  CHECK(first.second == 103);
  CHECK(second.second == 0);  // nothing was computed
  CHECK(caches(folder / "cache").size() == 2);

  // Damaged files are noticed and made good, with the same result.
  for (int damage = 0; damage < 4; ++damage) {
    INFO("damage " << damage);
    for (const auto& path : caches(folder / "cache")) {
      const auto size = std::filesystem::file_size(path);
      if (damage == 0) std::filesystem::resize_file(path, size - 100);
      if (damage == 1) std::filesystem::resize_file(path, 4096 + 11);
      if (damage == 2) std::ofstream(path, std::ios::trunc) << "nothing of the kind";
      if (damage == 3) {
        std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
        for (std::uintmax_t at : {std::uintmax_t{4096 + 64 + 256 + 9}, size - 300}) {
          file.seekg(static_cast<std::streamoff>(at));
          const char byte = static_cast<char>(file.get() ^ 8);
          file.seekp(static_cast<std::streamoff>(at));
          file.put(byte);
        }
      }
    }
    const auto healed = run("healed.safetensors");
    CHECK(healed.first == first.first);
    CHECK(healed.second > 0);
    CHECK(file_hash(folder / "healed.safetensors") == file_hash(folder / "first.safetensors"));
    CHECK(run("healed.safetensors").second == 0);
  }
}

TEST_CASE("The same data for training and validation shares one file, and nobody waits for himself") {
  const Folder folder;
  const auto data = colour_data(40);
  auto model = toy_model();
  CountFeatures count;
  tl::Trainer{model, {.epochs = 1, .cache = {.folder = folder}}}.fit(data, data, count);
  CHECK(caches(folder).size() == 1);
  std::stop_source stop;
  stop.request_stop();
  auto other = toy_model(2);
  CHECK(tl::Trainer{other, {.epochs = 1, .cache = {.folder = folder}, .stop = stop.get_token()}}
            .fit(data, data)
            .epochs.empty());
}

TEST_CASE("Whatever changes the values changes the key") {
  const Folder folder;
  const auto [pictures, target] = coloured(8, 16, 1);
  const tl::TensorData<tl::ClassIndex> data(pictures, target, colours);
  std::size_t known = 0;
  // Whether the features of these data had to be computed anew, into another file.
  const auto is_new = [&](auto& model, const auto& set, tl::Precision precision = tl::Precision::fp32) {
    tl::Trainer{model, {.epochs = 1, .precision = precision, .cache = {.folder = folder}}}.fit(set, data);
    const std::size_t now = caches(folder).size();
    return std::exchange(known, now) != now;
  };
  auto model = toy_model();
  CHECK(is_new(model, data));
  CHECK_FALSE(is_new(model, data));
  const auto equal = tl::clone(model);
  SECTION("one bit of a weight, or of a batch norm's statistics") {
    for (const char* name : {"stem.weight", "tail_norm.running_var"}) {
      for (auto& item : tl::state_dict(*model.backbone_core().network))
        if (item.first == name) {
          const torch::NoGradGuard guard;
          auto* bits = static_cast<std::uint32_t*>(item.second.mutable_data_ptr());
          bits[1] ^= 1U;
        }
      CHECK(is_new(model, data));
    }
    auto same = tl::clone(equal);
    CHECK_FALSE(is_new(same, data));
    // The original's classifier does not matter.
    for (auto& item : tl::state_dict(*same.backbone_core().network))
      if (item.first == "fc.weight") {
        const torch::NoGradGuard guard;
        item.second.add_(1.0);
      }
    CHECK_FALSE(is_new(same, data));
  }
  SECTION("one bit of a picture") {
    Tensor changed = pictures.clone();
    changed[7][2][15][15] = changed[7][2][15][15].item<int>() ^ 1;
    CHECK(is_new(model, tl::TensorData<tl::ClassIndex>(changed, target, colours)));
    const PlainData plain{pictures, target};
    CHECK(is_new(model, plain));  // hashed in another way; from then on it is known
    CHECK_FALSE(is_new(model, plain));
    CHECK(is_new(model, PlainData{changed, target}));
  }
  SECTION("the preparation of the pictures") {
    for (int what = 0; what < 4; ++what) {
      auto other = tl::clone(equal);
      tl::Preprocessing& p = other.backbone_core().preprocessing;
      if (what == 0) p.mean[2] += 1e-9;
      if (what == 1) p.deviation[0] *= 2.0;
      if (what == 2) p.interpolation = tl::Interpolation::bicubic;
      if (what == 3) p.crop_fraction = 0.875;
      INFO(what);
      CHECK(is_new(other, data));
      CHECK_FALSE(is_new(other, data));
    }
  }
  SECTION("the precision and the cut") {
    CHECK(is_new(model, data, tl::Precision::bf16));
    model.refreeze(tl::FreezePolicy{tl::FreezeUntil{"tail"}});
    CHECK(is_new(model, data));
  }
  SECTION("which views there are") {
    CHECK(is_new(model, tl::augment(data, tl::Flip{})));
    CHECK(is_new(model, tl::augment(data, tl::Flip{.left_right = false, .up_down = true})));
    CHECK_FALSE(is_new(model, tl::augment(data, tl::Flip{})));
    CHECK(is_new(model, tl::augment(data, tl::CentreCrop{.size = 8})));
  }
  SECTION("a user's own network whose code has changed, its weights not") {
    struct Own : tl::Module {
      torch::nn::Conv2d conv{nullptr};
      bool squared = false;
      explicit Own(bool s = false) : squared(s) {
        conv = register_module("conv", torch::nn::Conv2d(3, 4, 3));
        enliven(*this);
      }
      Tensor forward(const Tensor& x) { return squared ? conv->forward(x).square() : conv->forward(x).abs(); }
      struct Part : tl::Module {
        Own* own;
        explicit Part(Own* o) : own(o) { register_module("conv", o->conv); }
        Tensor forward(const Tensor& x) { return own->forward(x); }
      };
      tl::Stages stages() { return {{"all", std::make_shared<Part>(this)}}; }
    };
    const auto of = [](bool squared) {
      return tl::Classifier{tl::Backbone<Own>::of(std::make_shared<Own>(squared), {.size = 16}),
                            tl::FreezePolicy<tl::FreezeAll>{}, tl::Head<tl::Linear>{}, colours};
    };
    auto one = of(false), two = of(true), three = of(false);
    CHECK(is_new(one, data));
    CHECK(is_new(two, data));
    CHECK_FALSE(is_new(three, data));
  }
}

TEST_CASE("Training a model that was read from its file goes on where it ended") {
  const Folder folder;
  const auto data = colour_data(60);
  auto model = toy_model();
  const tl::TrainerOptions options{.epochs = 4, .batch = 20, .optimizer = tl::Adam{.lr = 1e-2}};
  tl::Trainer{model, options}.fit(data, data);
  const double loss = tl::evaluate(model, data, options)[0].second;
  tl::save(model, folder / "model.safetensors");
  auto loaded = tl::load<SqueezeNet, tl::Linear>(folder / "model.safetensors");
  loaded.refreeze(tl::FreezePolicy{tl::FreezeAll{}});
  auto copy = tl::clone(loaded);
  for (auto* m : {&model, &loaded, &copy}) {
    const tl::TrainerOptions slow{.epochs = 1, .batch = 20, .optimizer = tl::Sgd{.lr = 1e-9}};
    CHECK(std::abs(tl::Trainer{*m, slow}.fit(data, data)["val_loss"][0] - loss) < 1e-4 * loss);
  }
}

// ------------------------------------------------------------------------------------------------ stopping, callbacks

TEST_CASE("A stop token is obeyed while features are computed, trained on and measured with") {
  const Folder folder;
  const auto train = colour_data(96), val = colour_data(64, 16, 2);
  struct StopAt {
    std::stop_source source;
    std::string phase;
    Index epoch, done, last = 0;
    void on_progress(const tl::Progressed& p) {
      if (p.phase == phase && p.epoch == epoch) {
        last = p.done;
        if (p.done >= done) source.request_stop();
      }
    }
  };
  const auto run = [&](StopAt stop, const tl::CacheOptions& cache, std::size_t epochs, Index last) {
    auto model = toy_model();
    INFO(stop.phase);
    bool ended = false;
    struct Ended {
      bool* flag;
      void on_fit_end(Model&) { *flag = true; }
    } at_end{&ended};
    const auto history =
        tl::Trainer{model, {.epochs = 5, .batch = 32, .cache = cache, .stop = stop.source.get_token()}}.fit(
            train, val, stop, at_end);
    CHECK(history.epochs.size() == epochs);
    CHECK(stop.last == last);
    CHECK(ended);
  };
  run({{}, "features", 0, 64}, {.folder = folder}, 0, 64);
  run({{}, "train", 3, 32}, {}, 2, 32);
  run({{}, "validate", 2, 32}, {}, 1, 32);
  // What was computed before the stop stays in the file, and the next run goes on behind it.
  const auto path = caches(folder).at(0);
  const std::string before = tl::read_file(path);
  CHECK(caches(folder).size() == 1);
  CHECK(before.size() == 4096 + 4096 + 64 + 32 * 8 + 32 * 64);  // a header and two pieces of 32 small rows
  auto model = toy_model();
  tl::Trainer{model, {.epochs = 1, .batch = 32, .cache = {.folder = folder}}}.fit(train, val);
  const std::string after = tl::read_file(path);
  CHECK(after.size() == before.size() + 4096);
  CHECK(after.substr(0, before.size()) == before);
  CHECK(caches(folder).size() == 2);

  std::stop_source stop;
  stop.request_stop();
  CHECK(sentence_of<tl::Stopped>([&] {
          tl::Trainer{model, {.stop = stop.get_token()}}.evaluate(val);
        }) == "stopped while loading pictures, as asked");
}

TEST_CASE("With workers that prepare the next batch a run is the same to the byte") {
  const auto train = colour_data(70), val = colour_data(33, 16, 2);
  const auto cropped = tl::augment(train, tl::RandomResizedCrop{.size = 16});
  const auto flipped = tl::augment(train, tl::Flip{});
  const auto run = [&](Index workers, const auto& data, const tl::CacheOptions& cache) {
    tl::Classifier model{lively<SqueezeNet>(16), tl::FreezePolicy<tl::FreezeUntil>{{"block.project"}},
                         tl::Head<tl::Linear>{{.dropout = 0.1}}, colours};
    const auto history =
        tl::Trainer{model, {.epochs = 2, .batch = 20, .cache = cache, .workers = workers}}.fit(data, val);
    return std::pair(numbers(history), snapshot(*model.backbone_core().network));
  };
  const auto expect_equal = [&](const auto& data, const tl::CacheOptions& cache) {
    const auto none = run(0, data, cache);
    for (Index workers : {1, 4}) {
      const auto some = run(workers, data, cache);
      CHECK(some.first == none.first);
      CHECK(same_bytes(some.second, none.second));
    }
  };
  expect_equal(train, {});
  expect_equal(train, {.enabled = false});
  expect_equal(flipped, {.limit = 64 << 10});
  expect_equal(cropped, {});

  auto model = toy_model();
  CHECK(sentence_of<tl::OptionError>([&] {
          tl::Trainer{model, {.workers = -1}}.fit(train, val);
        }) == "a loader's workers must be 0 to 1024, not -1");
}

namespace {

/// Data that count how often they are asked, and can refuse a picture or call for an end.
struct WatchedData : PlainData {
  mutable std::atomic<Index> batches = 0, at_stop = 0;
  Index broken = -1, last = -1;
  std::stop_source* stop = nullptr;
  explicit WatchedData(const PlainData& data) : PlainData(data) {}
  Tensor targets(std::span<const Index> ids) const { return PlainData::batch(ids).target; }
  tl::Batch batch(std::span<const Index> ids) const {
    ++batches;
    for (Index id : ids) {
      if (id == broken) throw tl::DataError(tl::detail::text("picture ", id, " is broken"));
      if (id == last) {
        stop->request_stop();
        at_stop = batches.load();
      }
    }
    return PlainData::batch(ids);
  }
};

}  // namespace

TEST_CASE("What goes wrong in a worker reaches the caller, and a stop leaves it nothing to do") {
  const auto data = colour_data(640);
  const auto all_frozen = [&](const tl::TrainerOptions& options, const WatchedData& watched) {
    auto model = toy_model();
    return tl::Trainer{model, options}.fit(watched, data);
  };
  const auto all_trained = [&](const tl::TrainerOptions& options, const WatchedData& watched) {
    tl::Classifier model{lively<SqueezeNet>(16), tl::FreezePolicy<tl::FreezeNone>{}, tl::Head<tl::Linear>{}, colours};
    return tl::Trainer{model, options}.fit(watched, data);
  };
  for (Index workers : {0, 1, 4}) {
    INFO(workers);
    const auto expect = [&](const auto& fit) {
      WatchedData broken(PlainData{data.pictures(), data.target()});
      broken.broken = 100;
      CHECK(sentence_of<tl::DataError>([&] { fit({.epochs = 1, .batch = 32, .workers = workers}, broken); }) ==
            "picture 100 is broken");
      WatchedData ended(PlainData{data.pictures(), data.target()});
      std::stop_source stop;
      ended.stop = &stop;
      ended.last = 0;
      CHECK(fit({.epochs = 1, .batch = 32, .workers = workers, .stop = stop.get_token()}, ended).epochs.empty());
      // What is under way when the stop comes is ended; nothing is begun behind it.
      CHECK(ended.at_stop >= 1);
      CHECK(ended.batches <= ended.at_stop + std::max<Index>(workers - 1, 0));
    };
    expect(all_frozen);
    expect(all_trained);
  }
}

TEST_CASE("Callbacks are called by the hooks that they have, in order, and may end the training") {
  const auto data = colour_data(40);
  std::string log;
  struct Everything {
    std::string* log;
    void on_fit_begin(Model&) { *log += "begin "; }
    void on_progress(const tl::Progressed& p) {
      *log += p.phase.substr(0, 1);
      CHECK(p.done <= p.total);
      CHECK(p.epochs == 3);
    }
    bool on_epoch_end(Model& model, const tl::Epoch& e) {
      *log += tl::detail::text(" end", e.number, " ");
      return model.labels() == colours;
    }
    void on_fit_end(Model&) { *log += "end"; }
  };
  struct EpochOnly {
    std::string* log;
    Index until;
    bool on_epoch_end(const tl::Epoch& e) {
      *log += "| ";
      return e.number < until;
    }
  };
  auto model = toy_model();
  const tl::TrainerOptions options{.epochs = 3, .batch = 20};
  tl::Trainer trainer{model, options};
  Everything everything{&log};
  CHECK(trainer.fit(data, data, everything, EpochOnly{&log, 2}).epochs.size() == 2);
  CHECK(log ==
        "begin fffftt"
        "vv end1 | ttvv end2 | end");
  log.clear();
  struct Silent {
    void on_epoch_end(const tl::Epoch&) {}
  };
  CHECK(trainer.fit(data, data, Silent{}).epochs.size() == 3);
}

TEST_CASE("EarlyStopping waits as long as it is told") {
  const auto stops_after = [](tl::EarlyStopping::Options options, const std::vector<double>& losses) {
    tl::EarlyStopping stopping(options);
    int nothing = 0;
    stopping.on_fit_begin(nothing);
    for (std::size_t i = 0; i < losses.size(); ++i)
      if (!stopping.on_epoch_end({static_cast<Index>(i + 1), {{"val_loss", losses[i]}, {"val_accuracy", losses[i]}}}))
        return i + 1;
    return std::size_t{0};
  };
  CHECK(stops_after({.patience = 2}, {5, 4, 3, 3.5, 3.1, 1}) == 5);
  CHECK(stops_after({.patience = 2}, {5, 4, 4.5, 3, 3.5, 2}) == 0);
  CHECK(stops_after({.patience = 1, .least = 0.5}, {5, 4, 3.7, 2}) == 3);
  CHECK(stops_after({.monitor = "val_accuracy", .patience = 2, .higher = true}, {.5, .6, .6, .55, .9}) == 4);
  CHECK(stops_after({.patience = 2}, {5, std::numeric_limits<double>::quiet_NaN(), 6, 1}) == 3);
  CHECK_THAT(sentence_of<tl::OptionError>([&] { stops_after({.monitor = "val_los"}, {1}); }),
             StartsWith("epoch 1 has no column \"val_los\"; its columns are val_loss, val_accuracy"));

  const auto data = colour_data(40);
  auto model = toy_model();
  const tl::TrainerOptions options{.epochs = 9, .optimizer = tl::Sgd{.lr = 1e-12}};
  CHECK(tl::Trainer{model, options}.fit(data, data, tl::EarlyStopping{{.patience = 2, .least = 1e-3}}).epochs.size() ==
        3);
}

TEST_CASE("KeepBest gives the best epoch's weights back") {
  const auto data = colour_data(48);
  struct Worsen {  // after the second epoch the head is spoilt
    void on_epoch_end(Model& model, const tl::Epoch& e) {
      const torch::NoGradGuard guard;
      if (e.number >= 2)
        for (Tensor p : model.head().parameters()) p.mul_(-1.0);
    }
  };
  auto model = toy_model();
  tl::KeepBest best;
  const tl::TrainerOptions options{.epochs = 5, .batch = 16, .optimizer = tl::Adam{.lr = 1e-2}};
  const auto history = tl::Trainer{model, options}.fit(data, data, best, Worsen{});
  CHECK(best.epoch() == history.best("val_accuracy", true).number);
  CHECK(best.epoch() == 2);
  CHECK(tl::evaluate(model, data)[1].second == history["val_accuracy"][1]);
  CHECK(history["val_accuracy"].back() < history["val_accuracy"][1]);
}

// -------------------------------------------------------------------------------------------- a disk that does not
// take it

namespace {

/// Makes an operation on files fail while it lives.
struct Fault {
  Fault(Index passes, int error, bool lasting) {
    tl::detail::file_faults.error = error;
    tl::detail::file_faults.lasting = lasting;
    tl::detail::file_faults.met = false;
    tl::detail::file_faults.passes = passes;
  }
  ~Fault() { tl::detail::file_faults.passes = -1; }
};

std::vector<std::filesystem::path> files_in(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> out;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder))
    if (entry.is_regular_file()) out.push_back(entry.path());
  return out;
}

}  // namespace

TEST_CASE(
    "Whichever write fails: one sentence, the old files as they were, nothing temporary, and the next run is whole") {
  const auto data = colour_data(40);
  const Folder place;
  const auto run = [&](const std::filesystem::path& folder) {
    auto model = toy_model();
    tl::Trainer trainer{model, {.epochs = 1, .batch = 20, .cache = {.folder = folder / "cache"}}};
    tl::RunFolder keep{folder / "run", trainer, data, data};
    const auto history = trainer.fit(data, data, keep);
    tl::save(model, folder / "saved.safetensors");
    tl::write_csv(history, folder / "metrics.csv");
    tl::plot_accuracy(history, folder / "accuracy.svg");
    return file_hash(folder / "saved.safetensors");
  };
  std::filesystem::create_directories(place / "whole");
  const std::string hash = run(place / "whole");
  const auto results = files_in(place / "whole");
  REQUIRE(results.size() == 15);  // the run's 10, the cache and its lock, three files
  for (const auto& [error, lasting] : {std::pair(ENOSPC, true), std::pair(EACCES, false)}) {
    Index failed = 0;
    for (bool met = true; met; failed += lasting ? 2 : 5) {  // each syncs dozens of files
      INFO(std::strerror(error) << " at operation " << failed);
      const Folder folder;
      std::map<std::filesystem::path, std::string> old;
      for (const auto& path : results) {
        const auto here = std::filesystem::path(folder) / std::filesystem::relative(path, place / "whole");
        if (here.parent_path().filename() == "cache") continue;
        std::filesystem::create_directories(here.parent_path());
        std::ofstream(here) << (old[here] = "what was here before, " + here.filename().string());
      }
      std::string sentence;
      {
        const Fault fault(failed, error, lasting);
        try {
          run(folder);
          met = tl::detail::file_faults.met;
          CHECK_FALSE(met);  // nothing is swallowed
        } catch (const tl::FileError& e) {
          sentence = e.what();
        }
      }
      if (!met) break;
      CHECK_THAT(sentence, StartsWith("cannot ") && ContainsSubstring(std::string(": ") + std::strerror(error)));
      CHECK_THAT(sentence,
                 ContainsSubstring(error == ENOSPC ? "; free some space and run again, the old file is unchanged"
                                                   : "; choose a folder that you may write to"));
      CHECK_THAT(sentence, ContainsSubstring(std::filesystem::path(folder).string()));
      for (const auto& [path, before] : old) {
        const std::string now = tl::read_file(path);
        INFO(sentence << "\n" << path << ": " << now.substr(0, 200));
        CHECK((now == before || !now.starts_with("what was here before")));
        if (sentence.find(path.string() + ":") == std::string::npos || path.filename() == "log.txt") continue;
        CHECK((now == before || sentence.starts_with("cannot sync the folder of")));
      }
      for (const auto& path : files_in(folder)) CHECK(path.extension() != ".tmp");
      CHECK(run(folder) == hash);
    }
    CHECK(failed > 50);
  }
}

TEST_CASE("A folder that may not be written to") {
  const Folder folder;
  std::ofstream(folder / "old.txt") << "old";
  std::filesystem::permissions(folder, std::filesystem::perms(0555));
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  // The superuser may write everywhere, so nobody does it.
  const ::pid_t child = ::fork();
  if (child == 0) {
    if (::geteuid() == 0 && ::setuid(65534) != 0) ::_exit(2);
    std::string out = sentence_of<tl::FileError>([&] { tl::write_file(folder / "old.txt", "new"); }) + "\n";
    out += sentence_of<tl::FileError>([&] { tl::make_folders(folder / "run"); });
    ::_exit(::write(ends[1], out.data(), out.size()) == static_cast<::ssize_t>(out.size()) ? 0 : 3);
  }
  ::close(ends[1]);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  char buffer[4096];
  const ::ssize_t n = ::read(ends[0], buffer, sizeof buffer);
  ::close(ends[0]);
  REQUIRE(n > 0);
  const std::string temporary = (folder / tl::detail::text("old.txt.", child, ".tmp")).string();
  CHECK(std::string(buffer, static_cast<std::size_t>(n)) ==
        "cannot write " + temporary + ": Permission denied; choose a folder that you may write to\n" +
            "cannot make the folder " + (folder / "run").string() +
            ": Permission denied; choose a folder that you may write to");
  CHECK(tl::read_file(folder / "old.txt") == "old");
  std::filesystem::permissions(folder, std::filesystem::perms(0755));
}

// ------------------------------------------------------------------------------------------------ metrics and targets

TEST_CASE("evaluate shows the predictions to more metrics") {
  const auto train = colour_data(60), val = colour_data(45, 16, 2);
  auto model = toy_model();
  const tl::TrainerOptions options{.epochs = 3, .batch = 16, .optimizer = tl::Adam{.lr = 1e-2}};
  tl::Trainer trainer{model, options};
  trainer.fit(train, val);
  tl::ConfusionMatrix matrix;
  tl::TopK<1> first;
  tl::TopK<2> two;
  tl::TopK<5> all;
  const auto values = trainer.evaluate(val, matrix, first, two, all);
  const double accuracy = values[1].second;
  CHECK(matrix.classes() == 3);
  Index sum = 0, right = 0;
  for (Index r = 0; r < 3; ++r) {
    Index row = 0;
    for (Index c = 0; c < 3; ++c) row += matrix.counts()[static_cast<std::size_t>(3 * r + c)];
    CHECK(row == 15);
    sum += row;
    right += matrix.counts()[static_cast<std::size_t>(4 * r)];
  }
  CHECK(static_cast<double>(right) / static_cast<double>(sum) == accuracy);
  CHECK(first.values()[0].second == accuracy);
  CHECK(first.values()[0].first == "top1_accuracy");
  CHECK(two.values()[0].second >= accuracy);
  CHECK(all.values()[0].second == 1.0);
  // An augmented set is measured as it is.
  CHECK(trainer.evaluate(tl::augment(val, tl::Flip{})) == values);

  // By hand: rows are the truth, columns the predictions.
  tl::ConfusionMatrix small;
  small.update(at::tensor({0.1F, 0.9F, 0.8F, 0.2F, 0.3F, 0.7F}).view({3, 2}), {{}, at::tensor({0L, 0L, 1L}), {}});
  CHECK(small.counts() == std::vector<Index>{1, 1, 0, 1});
  CHECK(small.values() == tl::NamedValues{{"recall_0", 0.5}, {"recall_1", 1.0}});
  CHECK(sentence_of<tl::DataError>([&] {
          small.update(at::ones({1, 2}), {{}, at::tensor({2L}), {}});
        }) == "label 2 is out of range: the model knows 2 classes");
}

TEST_CASE("Several labels a picture, and numbers, are learnt") {
  const auto [pictures, target] = coloured(96, 16, 1);
  const Tensor one_hot = at::one_hot(target, 3).to(at::kFloat);
  {
    Tensor several = one_hot.clone();
    several.select(1, 2).copy_(1.0 - one_hot.select(1, 0));  // "not red" besides
    const tl::TensorData<tl::MultiLabel> data(pictures, several, {"red", "green", "not red"});
    tl::Classifier model{lively<SqueezeNet>(16), tl::FreezePolicy<tl::FreezeAll>{},
                         tl::Head<tl::MultiLabelMlp>{{.width = 16}}, data.labels()};
    const tl::TrainerOptions options{.epochs = 12, .batch = 16, .optimizer = tl::Adam{.lr = 1e-2}};
    const auto history = tl::Trainer{model, options}.fit(data, data);
    CHECK(history["val_accuracy"].back() > 0.95);
    const Tensor p = model.predict(data.batch(first_ids(6)));
    CHECK(p.min().item<float>() >= 0.0F);
    CHECK(p.max().item<float>() <= 1.0F);
    CHECK((p.sum(1) - 1.0).abs().max().item<double>() > 0.2);  // no softmax
    CHECK(p.gt(0.5).eq(several.narrow(0, 0, 6).gt(0.5)).to(at::kFloat).mean().item<double>() > 0.9);
  }
  {
    const Tensor mean = pictures.to(at::kFloat).mean({2, 3}) / 100.0;
    const tl::TensorData<tl::Values> data(pictures, mean.narrow(1, 0, 2).contiguous(), {"red", "green"});
    tl::Classifier model{lively<SqueezeNet>(16), tl::FreezePolicy<tl::FreezeAll>{}, tl::Head<tl::RegressionLinear>{},
                         data.labels()};
    const tl::TrainerOptions options{.epochs = 40, .batch = 16, .optimizer = tl::Adam{.lr = 3e-2}};
    const auto history = tl::Trainer{model, options}.fit(data, data);
    const double spread = (data.target() - data.target().mean(0)).abs().mean().item<double>();
    CHECK(history["val_mae"].back() < 0.5 * spread);
    CHECK(history.epochs[0].has("train_mae"));
    const Tensor p = model.predict(data.batch(first_ids(96)));
    CHECK(std::abs((p - data.target()).abs().mean().item<double>() - history["val_mae"].back()) < 1e-2);
  }
}

TEST_CASE("A head with dropout gives the same run twice") {
  const auto data = colour_data(48);
  const auto run = [&](double dropout, std::uint64_t seed) {
    tl::Classifier model{lively<SqueezeNet>(16), tl::FreezePolicy<tl::FreezeAll>{},
                         tl::Head<tl::Mlp>{{.width = 16, .dropout = dropout}}, colours};
    return numbers(tl::Trainer{model, {.epochs = 2, .batch = 16, .seed = seed}}.fit(data, data));
  };
  CHECK(run(0.5, 0) == run(0.5, 0));
  CHECK(run(0.5, 0) != run(0.0, 0));
  CHECK(run(0.5, 0) != run(0.5, 1));
}

// ------------------------------------------------------------------------------------------------------------ mistakes

namespace {

/// A head that has nothing to learn.
struct FixedHead : tl::Module {
  struct Options {};
  using Input = tl::Pooled;
  using Output = Tensor;
  using Target = tl::ClassIndex;
  using Prediction = Tensor;
  using Metric = tl::Accuracy;
  FixedHead(const tl::FeatureSpec& spec, const Options&) : classes(spec.classes) {}
  Tensor forward(const tl::Activations& a, const tl::Pass&) { return a.at(0).narrow(1, 0, classes); }
  tl::LossTerms loss(const Tensor& y, const tl::Batch& b) { return {{{"loss", at::cross_entropy_loss(y, b.target)}}}; }
  Tensor predict(const Tensor& y) { return at::softmax(y, 1); }
  Index classes;
};

}  // namespace

TEST_CASE("What can't be trained on, each with its sentence") {
  const auto data = colour_data(24);
  auto model = toy_model();
  const auto fit = [&](const tl::TrainerOptions& options, const auto& train, const auto& val) {
    return sentence_of<tl::Error>([&] { tl::Trainer{model, options}.fit(train, val); });
  };
  struct MustNotRun {
    void on_progress(const tl::Progressed& p) { FAIL("was already at " << p.phase); }
  };
  const auto refused = [&](const tl::TrainerOptions& options) {
    return sentence_of<tl::OptionError>([&] { tl::Trainer{model, options}.fit(data, data, MustNotRun{}); });
  };
  CHECK(refused({.epochs = 0}) == "epochs must be at least 1, not 0");
  CHECK(refused({.epochs = -3}) == "epochs must be at least 1, not -3");
  CHECK(refused({.batch = 0}) == "a batch must have at least 1 picture, not 0");
  CHECK(refused({.optimizer = tl::Sgd{.lr = 0.0}}) == "the learning rate must be above 0, not 0");
  CHECK(refused({.optimizer = tl::AdamW{.lr = -0.5}}) == "the learning rate must be above 0, not -0.5");
  CHECK(refused({.optimizer = tl::Adam{.lr = std::nan("")}}) == "the learning rate must be above 0, not nan");
  CHECK(sentence_of<tl::OptionError>([&] {
          tl::Trainer{model, {.batch = 0}}.evaluate(data);
        }) == "a batch must have at least 1 picture, not 0");

  const auto none = data.subset(0);
  CHECK(fit({}, none, data) == "the training data is empty: there is no picture to learn from");
  CHECK(fit({}, data, none) == "the validation data is empty: there is no picture to measure with");
  CHECK(sentence_of<tl::DataError>([&] { tl::Trainer{model}.evaluate(none); }) == "the data to evaluate on is empty");

  const auto renamed = [&](tl::Labels labels) {
    return tl::TensorData<tl::ClassIndex>(data.pictures(), data.target(), std::move(labels));
  };
  CHECK(fit({}, data, renamed({"red", "green", "grey"})) ==
        "the classes of the validation data are not the model's: it lacks blue; it has grey, which the model does not "
        "know; train and validation data need the same classes in the same order");
  CHECK(fit({}, renamed({"green", "red", "blue"}), data) ==
        "the classes of the training data are not the model's: they are the same names in another order; train and "
        "validation data need the same classes in the same order");

  PlainData wrong{data.pictures(), data.target().clone()};
  wrong.target[5] = 3;
  CHECK(fit({}, wrong, data) ==
        "picture 5 of the training data has the label 3, which is out of range: there are 3 classes, so labels go from "
        "0 to 2");
  wrong.target[5] = -1;
  CHECK(fit({}, data, wrong) ==
        "picture 5 of the validation data has the label -1, which is out of range: there are 3 classes, so labels go "
        "from 0 to 2");
  CHECK(sentence_of<tl::DataError>([&] { tl::Trainer{model}.evaluate(wrong); }) ==
        "picture 5 of the evaluated data has the label -1, which is out of range: there are 3 classes, so labels go "
        "from 0 to 2");

  auto broken = toy_model();
  {
    const torch::NoGradGuard guard;
    broken.head().parameters().at(1)[2] = std::numeric_limits<float>::quiet_NaN();
  }
  CHECK(sentence_of<tl::TrainingError>([&] {
          tl::Trainer{broken, {.optimizer = tl::Adam{.lr = 0.25}}}.fit(data, data);
        }) ==
        "the loss is nan at epoch 1, step 1; the learning rate 0.25 may be too high, or the data may hold numbers that "
        "are none");
  // A ReLU6 that is one call with its convolution makes a number of what is none: it is found before.
  Tensor lacking = data.pictures().to(at::kFloat) / 255.0;
  lacking[19][0][5][6] = std::nanf("");
  CHECK(fit({}, tl::TensorData<tl::ClassIndex>(lacking, data.target(), colours), data) ==
        "picture 19 holds nan (channel 0, row 5, column 6); pictures are numbers in [0, 1]");
  auto diverging = toy_model();
  CHECK_THAT(sentence_of<tl::TrainingError>([&] {
               tl::Trainer{diverging, {.batch = 12, .optimizer = tl::Sgd{.lr = 1e38}}}.fit(data, data);
             }),
             StartsWith("the loss is ") && ContainsSubstring("; the learning rate 1e+38 may be too high") &&
                 !ContainsSubstring("-nan"));

  const auto four =
      tl::TensorData<tl::ClassIndex>(at::zeros({6, 4, 16, 16}, at::kByte), at::zeros({6}, at::kLong), colours);
  CHECK(fit({}, four, data) ==
        "the pictures have 4 channels and the network takes 3; drop the alpha channel: pictures.narrow(1, 0, 3)");

  tl::Classifier fixed{lively<SqueezeNet>(16), tl::FreezePolicy<tl::FreezeAll>{}, tl::Head<FixedHead>{}, colours};
  CHECK(sentence_of<tl::TrainingError>([&] { tl::Trainer{fixed}.fit(data, data, MustNotRun{}); }) ==
        tl::detail::text("nothing is left to train: all ", fixed.layers().size(),
                         " layers of the backbone are frozen and the head has no parameters; freeze less"));
  fixed.refreeze(tl::FreezePolicy{tl::FreezeUntil{"tail"}});
  CHECK(tl::Trainer{fixed, {.epochs = 1}}.fit(data, data).epochs.size() == 1);

  const Folder folder;
  std::ofstream(folder / "file") << "no folder";
  CHECK_THAT(fit({.cache = {.folder = folder / "file" / "cache"}}, data, data),
             ContainsSubstring((folder / "file").string()));
}
