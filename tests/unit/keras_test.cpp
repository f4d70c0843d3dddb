// Keras's files: names, layouts, both ways; what is refused. tests/parity/make_keras.py made the fixtures. And Hugging
// Face's folders.
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <unistd.h>

#include <transferlib/backbones/efficientnet.hpp>
#include <transferlib/backbones/mobilenet_v2.hpp>
#include <transferlib/backbones/mobilenet_v3.hpp>
#include <transferlib/formats/hdf5_writer.hpp>
#include <transferlib/model/backbone.hpp>
#include <transferlib/weights/keras.hpp>
#include <transferlib/weights/keras_writer.hpp>

// LibTorch's logging has a macro of this name, which ends the program where Catch2's counts a failure.
#undef CHECK
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

namespace tl = transferlib;
namespace fs = std::filesystem;
using Catch::Matchers::ContainsSubstring;
using tl::Index;
using tl::Tensor;

namespace {

/// make_keras.py's `toy`.
struct Toy : tl::Plan {
  static constexpr tl::Card card{
      .name = "keras_toy", .preprocessing = {.size = 8}, .minimum_size = 8, .aliases = "toy.first toy_second"};
  explicit Toy(const tl::NetworkOptions& o = {}) : Plan("toy") {
    Index x = call(declare_nothing("input_layer", tl::Kind::input), {0});
    x = call(declare_convolution("stem", {.in = o.in_channels, .out = 4, .kernel = 3, .stride = 2, .same = true}), {x});
    x = call(declare_norm("stem_bn", 4, 1e-3, 0.01), {x});
    x = call(declare_activation("re_lu", tl::Activation::relu), {x});
    x = call(declare_convolution("depthwise", {.in = 4, .out = 4, .kernel = 3, .same = true, .groups = 4}), {x});
    x = call(declare_norm("depthwise_bn", 4, 1e-3, 0.01), {x});
    x = call(declare_convolution("project", {.in = 4, .out = 5, .bias = true}), {x});
    end_stage(x, "head");
    set_map(x);
    x = call(declare_global_pool("global_average_pooling2d"), {x});
    set_pooled(x);
    set_logits(call(declare_linear("embed", 5, 6), {x}));
  }
};

const char* const layer_names[] = {"stem", "stem_bn", "depthwise", "depthwise_bn", "project", "embed"};

/// The formula of make_keras.py: `index` counts in Keras's order.
float value(Index layer, Index variable, Index index) {
  return static_cast<float>(10000 * layer + 1000 * variable + index) / static_cast<float>(1 << 20);
}

/// Whether every element of the toy is where Keras has it, without the code under test.
void check_toy(const tl::StateDict& state) {
  std::map<std::string, Tensor> tensors(state.begin(), state.end());
  for (Index l = 0; l < 6; ++l) {
    const std::string name = layer_names[l];
    const Tensor weight = tensors.at(name + ".weight");
    INFO(name);
    bool equal = true;
    if (weight.dim() == 1) {
      const char* variables[] = {".weight", ".bias", ".running_mean", ".running_var"};
      for (Index v = 0; v < 4; ++v)
        for (Index c = 0; c < 4; ++c)
          equal = equal && tensors.at(name + variables[v])[c].item<float>() == value(l, v, c);
    } else if (weight.dim() == 2) {
      for (Index o = 0; o < 6; ++o)
        for (Index i = 0; i < 5; ++i) equal = equal && weight[o][i].item<float>() == value(l, 0, i * 6 + o);
    } else {
      const Index out = weight.size(0), in = weight.size(1), h = weight.size(2), w = weight.size(3);
      for (Index o = 0; o < out; ++o)
        for (Index i = 0; i < in; ++i)
          for (Index y = 0; y < h; ++y)
            for (Index x = 0; x < w; ++x) {
              // (h, w, in, out); of a depthwise one, (h, w, channels, 1).
              const Index at = name == "depthwise" ? (y * w + x) * out + o : ((y * w + x) * in + i) * out + o;
              equal = equal && weight[o][i][y][x].item<float>() == value(l, 0, at);
            }
    }
    if (weight.dim() != 1 && tensors.count(name + ".bias") != 0)
      for (Index o = 0; o < weight.size(0); ++o)
        equal = equal && tensors.at(name + ".bias")[o].item<float>() == value(l, 1, o);
    CHECK(equal);
  }
}

fs::path fixture(const std::string& name) {
  return fs::path(std::getenv("TRANSFERLIB_SOURCE")) / "tests" / "data" / "checkpoints" / name;
}

struct TemporaryFolder {
  fs::path path = fs::temp_directory_path() / ("transferlib-keras-" + std::to_string(::getpid()));
  TemporaryFolder() { tl::make_folders(path); }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
};

void write(const fs::path& path, const std::vector<std::byte>& bytes) {
  tl::write_file(path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

/// The toy's file, changed.
void write_changed(const fs::path& path, const std::function<void(std::vector<tl::Hdf5Object>&)>& change) {
  const auto file = tl::MappedFile::open(fixture("keras_toy.weights.h5"));
  tl::Hdf5Tree tree = tl::parse_hdf5(file->bytes(), "toy");
  change(tree.objects);
  write(path, tl::hdf5_bytes(tree.objects));
}

tl::Hdf5Object& object(std::vector<tl::Hdf5Object>& objects, const std::string& path) {
  for (tl::Hdf5Object& o : objects)
    if (o.path == path) return o;
  throw tl::Error("no " + path);
}

std::string message_of(const std::function<void()>& does) {
  try {
    does();
  } catch (const tl::Error& e) {
    return e.what();
  }
  return "nothing was thrown";
}

std::string loading(const fs::path& path) {
  return message_of([&] { tl::Backbone<Toy>::pretrained(path); });
}

}  // namespace

TEST_CASE("Keras's files load into a network of the same layers") {
  if (!tl::has_hdf5) SKIP("no HDF5 in this build");
  for (const char* name : {"keras_toy.weights.h5", "keras_toy.keras", "keras_toy.h5", "keras_nested.keras",
                           "keras_before_3.h5", "keras_automatic.weights.h5"}) {
    INFO(name);
    const auto backbone = tl::Backbone<Toy>::pretrained(fixture(name));
    check_toy(tl::state_dict(*backbone.core.network));
    CHECK(backbone.core.source == name);
    check_toy(tl::read_keras_weights(fixture(name), Toy()));
  }
}

TEST_CASE("what was converted from a Keras file loads too") {
  if (!tl::has_hdf5) SKIP("no HDF5 in this build");
  const TemporaryFolder folder;
  for (const char* name : {"keras_toy.weights.h5", "keras_before_3.h5"}) {
    const fs::path converted = folder.path / "converted.safetensors";
    tl::write_state_dict(converted, tl::read_state_dict(fixture(name)));
    check_toy(tl::state_dict(*tl::Backbone<Toy>::pretrained(converted).core.network));
  }
}

TEST_CASE("other input channels than the file's") {
  if (!tl::has_hdf5) SKIP("no HDF5 in this build");
  const auto colour = tl::Backbone<Toy>::pretrained(fixture("keras_toy.weights.h5"));
  for (const char* name : {"keras_toy.weights.h5", "keras_automatic.weights.h5"}) {
    const auto grey = tl::Backbone<Toy>::pretrained(fixture(name), {.in_channels = 1});
    const auto weight = [](const auto& b) { return tl::state_dict(*b.core.network).front().second; };
    CHECK(at::allclose(weight(grey), weight(colour).sum(1, true)));
  }
}

TEST_CASE("what is written, Keras's way or the older one, reads back byte for byte") {
  if (!tl::has_hdf5) SKIP("no HDF5 in this build");
  const TemporaryFolder folder;
  tl::KerasMobileNetV3Small network;
  network.initialise(1);
  for (const auto& item : network.named_buffers())
    if (item.value().is_floating_point()) item.value().uniform_(0.5, 2.0);
  const auto same = [&](const fs::path& path) {
    tl::KerasMobileNetV3Small other;
    tl::load_state_dict(other, tl::read_keras_weights(path, other));
    const auto a = tl::state_dict(network), b = tl::state_dict(other);
    for (std::size_t i = 0; i < a.size(); ++i) {
      INFO(a[i].first);
      CHECK(at::equal(a[i].second, b[i].second));
    }
  };
  for (const char* name : {"a.weights.h5", "a.h5"}) {
    tl::write_keras_weights(folder.path / name, network);
    same(folder.path / name);
    // The same weights, the same bytes.
    tl::write_keras_weights(folder.path / "again.h5", network);
    if (std::string(name) == "a.h5")
      CHECK(tl::read_file(folder.path / name) == tl::read_file(folder.path / "again.h5"));
  }
  // Ours is laid out as Keras's own.
  Toy toy;
  tl::load_state_dict(toy, tl::read_keras_weights(fixture("keras_toy.keras"), toy));
  tl::write_keras_weights(folder.path / "toy.weights.h5", toy);
  const auto theirs = tl::MappedFile::open(fixture("keras_toy.weights.h5")),
             ours = tl::MappedFile::open(folder.path / "toy.weights.h5");
  const auto expected = tl::parse_hdf5(theirs->bytes(), "theirs"), got = tl::parse_hdf5(ours->bytes(), "ours");
  for (const tl::Hdf5Object& object : expected.objects) {
    INFO(object.path);
    const tl::Hdf5Object* written = got.find(object.path);
    if (!object.is_dataset) {
      if (written == nullptr) continue;  // a layer without weights
      for (const tl::Hdf5Text& text : object.texts) {
        CHECK(written->find(text.name)->texts == text.texts);
        CHECK(written->find(text.name)->is_list == text.is_list);
      }
      continue;
    }
    REQUIRE(written != nullptr);
    CHECK(written->tensor.shape == object.tensor.shape);
    CHECK(std::equal(written->tensor.storage.begin(), written->tensor.storage.end(), object.tensor.storage.begin(),
                     object.tensor.storage.end()));
  }
  CHECK_THAT(message_of([&] { tl::write_keras_weights(folder.path / "a.keras", network); }),
             ContainsSubstring("give one of these names"));
}

TEST_CASE("numbers of every type, texts, and shapes come back from HDF5") {
  if (!tl::has_hdf5) SKIP("no HDF5 in this build");
  const Tensor base = at::arange(24, at::kFloat).reshape({2, 3, 4});
  tl::StateDict state;
  for (const auto type : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt, at::kUInt32})
    state.emplace_back(std::string("group/") + at::toString(type), base.to(type));
  state.emplace_back("scalar", at::full({}, 7.0F));
  state.emplace_back("none", at::zeros({0, 3}));
  const auto views = tl::detail::views_of(state);
  std::vector<tl::Hdf5Object> objects;
  for (const auto& view : views.views) objects.push_back({view.name, {{"about", {"ä", "", "b"}, true}}, true, view});
  objects.push_back({"group", {{"one", {"text"}, false}, {"none", {}, true}}, false, {}});
  const auto bytes = tl::hdf5_bytes(objects);
  const auto tree = tl::parse_hdf5(bytes, "f");
  for (std::size_t i = 0; i < state.size(); ++i) {
    INFO(state[i].first);
    const auto* found = tree.find(state[i].first);
    REQUIRE(found != nullptr);
    CHECK(found->find("about")->texts == std::vector<std::string>{"ä", "", "b"});
    const Tensor back = tl::detail::to_tensor(found->tensor, tree.owner);
    CHECK(back.scalar_type() == state[i].second.scalar_type());
    CHECK(back.sizes() == state[i].second.sizes());
    CHECK(at::equal(back, state[i].second));
  }
  CHECK(tree.find("group")->find("one")->texts == std::vector<std::string>{"text"});
  CHECK(tree.find("group")->find("none")->texts.empty());
  // A file that is no Keras's: paths are names.
  CHECK(tl::parse_checkpoint(bytes, "f").find("group/Half") != nullptr);
  CHECK_THAT(message_of([&] {
               const auto odd = tl::detail::views_of({{"c", at::zeros({1}, at::kComplexFloat)}});
               const std::vector<tl::Hdf5Object> one{{"c", {}, true, odd.views[0]}};
               tl::hdf5_bytes(one);
             }),
             ContainsSubstring("complex64"));
}

TEST_CASE("a model nested in an older file; texts in pieces") {
  if (!tl::has_hdf5) SKIP("no HDF5 in this build");
  const TemporaryFolder folder;
  const tl::StateDict toy = tl::read_state_dict(fixture("keras_toy.h5"));
  tl::StateDict state;
  tl::Hdf5Text first{"weight_names0", {}, true}, second{"weight_names1", {}, true};
  for (std::size_t i = 0; i < toy.size(); ++i) {
    state.emplace_back("model_weights/base/" + toy[i].first, toy[i].second);
    (i < 3 ? first : second).texts.push_back(toy[i].first);
  }
  const auto views = tl::detail::views_of(state);
  std::vector<tl::Hdf5Object> objects{{"model_weights", {{"layer_names", {"in", "base"}, true}}, false, {}},
                                      {"model_weights/in", {{"weight_names", {}, true}}, false, {}},
                                      {"model_weights/base", {first, second}, false, {}}};
  for (const auto& view : views.views) objects.push_back({view.name, {}, true, view});
  const fs::path path = folder.path / "nested.h5";
  write(path, tl::hdf5_bytes(objects));
  CHECK(tl::read_state_dict(path).front().first == "base/stem/kernel");
  check_toy(tl::state_dict(*tl::Backbone<Toy>::pretrained(path).core.network));
  // A layer that is named and not there.
  objects[0].texts[0].texts.emplace_back("gone");
  write(path, tl::hdf5_bytes(objects));
  CHECK_THAT(loading(path), ContainsSubstring("the layer \"gone\" is named"));
}

TEST_CASE("files that can't be used are refused in a sentence") {
  if (!tl::has_hdf5) SKIP("no HDF5 in this build");
  const TemporaryFolder folder;
  const fs::path path = folder.path / "bad.weights.h5";
  const std::string whole = tl::read_file(fixture("keras_toy.weights.h5"));
  for (const std::size_t size : {whole.size() - 1, whole.size() / 2, std::size_t{600}, std::size_t{8}}) {
    tl::write_file(path, whole.substr(0, size));
    CHECK_THAT(loading(path), ContainsSubstring("bad.weights.h5: HDF5 can't") && ContainsSubstring("cut or damaged"));
  }
  tl::write_file(path, std::string("\x89HDF\r\n\x1a\n") + std::string(4000, '\7'));
  CHECK_THAT(loading(path), ContainsSubstring("HDF5 can't read the file"));
  tl::write_file(path, "no HDF5");
  CHECK_THAT(loading(path), ContainsSubstring("of no format that is known here"));

  using Objects = std::vector<tl::Hdf5Object>;
  write_changed(path, [](Objects& o) {
    o.erase(
        std::remove_if(o.begin(), o.end(), [](const auto& x) { return x.path.find("depthwise") != std::string::npos; }),
        o.end());
  });
  CHECK_THAT(loading(path), ContainsSubstring("of its 6 layers with weights 1 are missing (depthwise)") &&
                                ContainsSubstring("the file has"));
  const Tensor numbers = at::zeros({3, 3, 3, 8});
  for (const auto& [tensor, sentence] : {std::pair{numbers, "stem.weight (8, 3, 3, 3) instead of (4, 3, 3, 3)"},
                                         {at::zeros({3, 3, 3, 4}, at::kHalf), "\"stem/kernel\" is of type float16"},
                                         {at::zeros({3, 3, 3, 4}, at::kDouble), "\"stem/kernel\" is of type float64"},
                                         {at::zeros({3, 3, 3, 4}, at::kInt), "\"stem/kernel\" is of type int32"}}) {
    const auto views = tl::detail::views_of({{"x", tensor}});
    write_changed(path, [&](Objects& o) { object(o, "layers/conv2d/vars/0").tensor = views.views[0]; });
    CHECK_THAT(loading(path), ContainsSubstring(sentence));
  }
  const auto extra = tl::detail::views_of({{"x", at::zeros({4})}});
  write_changed(path, [&](Objects& o) { o.push_back({"layers/conv2d/vars/1", {}, true, extra.views[0]}); });
  CHECK_THAT(loading(path), ContainsSubstring("1 are unexpected (stem/bias)"));
  write_changed(path, [&](Objects& o) {
    o.erase(std::remove_if(o.begin(), o.end(), [](const auto& x) { return x.path == "layers/conv2d_1/vars/1"; }),
            o.end());
  });
  CHECK_THAT(loading(path), ContainsSubstring("1 names are missing (project.bias)"));

  // A network that is not Keras's is loaded by name alone: shapes that fit by chance would mean nothing.
  struct Foreign : tl::Plan {
    explicit Foreign(const tl::NetworkOptions& = {}) : Plan("foreign") {
      Index x = call(declare_convolution("features.0", {.in = 3, .out = 4, .kernel = 3}), {0});
      end_stage(x, "head");
      set_map(x);
      x = call(declare_global_pool("pool"), {x});
      set_pooled(x);
    }
  };
  CHECK_THAT(message_of([&] { tl::read_keras_weights(fixture("keras_toy.h5"), Foreign()); }),
             ContainsSubstring("whose own networks are called keras_"));
}

TEST_CASE("links and numbers in other files are not followed", "[hdf5]") {
  if (!tl::has_hdf5) SKIP("no HDF5 in this build");
#ifdef TRANSFERLIB_HDF5
  const TemporaryFolder folder;
  const fs::path path = folder.path / "links.h5";
  for (const bool external : {false, true}) {
    const hid_t file = ::H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    if (external)
      ::H5Lcreate_external("/etc/passwd", "/", file, "link", H5P_DEFAULT, H5P_DEFAULT);
    else
      ::H5Lcreate_soft("/elsewhere", file, "link", H5P_DEFAULT, H5P_DEFAULT);
    ::H5Fclose(file);
    CHECK_THAT(message_of([&] { tl::read_state_dict(path); }), ContainsSubstring("\"link\" is a link"));
  }
  // A group in itself.
  hid_t file = ::H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  ::H5Lcreate_hard(file, "/", file, "again", H5P_DEFAULT, H5P_DEFAULT);
  ::H5Fclose(file);
  CHECK_THAT(message_of([&] { tl::read_state_dict(path); }), ContainsSubstring("without end"));
  // Much space, nothing in it.
  file = ::H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  const hsize_t sides[] = {hsize_t{1} << 40};
  const hid_t space = ::H5Screate_simple(1, sides, nullptr);
  const hid_t properties = ::H5Pcreate(H5P_DATASET_CREATE);
  const hsize_t piece[] = {1024};
  ::H5Pset_chunk(properties, 1, piece);
  ::H5Dclose(::H5Dcreate2(file, "large", H5T_IEEE_F32LE, space, H5P_DEFAULT, properties, H5P_DEFAULT));
  ::H5Pclose(properties);
  ::H5Sclose(space);
  ::H5Fclose(file);
  CHECK_THAT(message_of([&] { tl::read_state_dict(path); }), ContainsSubstring("\"large\" says that it has"));
#endif
}

TEST_CASE("pixels that a file's network normalises otherwise are refused") {
  if (!tl::has_hdf5) SKIP("no HDF5 in this build");
  tl::KerasEfficientNetB0 network;
  const TemporaryFolder folder;
  const fs::path path = folder.path / "a.weights.h5";
  tl::write_keras_weights(path, network);
  tl::StateDict state = tl::read_state_dict(path);
  const auto load = [&] { return tl::from_keras(network, network.graph(), state, "f").size(); };
  // Keras counts no batches.
  CHECK(load() == network.named_parameters().size() + network.named_buffers().size() / 3 * 2);
  for (auto& [name, tensor] : state)
    if (name == "normalization/variance") tensor = tensor * tensor;  // Keras's own meaning of it
  CHECK(load() > 0);
  for (auto& [name, tensor] : state)
    if (name == "normalization/mean") tensor = at::zeros({3});
  CHECK_THAT(message_of([&] { load(); }), ContainsSubstring("\"normalization\" normalises pixels by other numbers"));
}

TEST_CASE("a folder as Hugging Face keeps it") {
  const TemporaryFolder folder;
  Toy network;
  network.initialise(3);
  const tl::StateDict state = tl::state_dict(network), front(state.begin(), state.begin() + 4),
                      back(state.begin() + 4, state.end());
  const auto config = [&](const std::string& text) { tl::write_file(folder.path / "config.json", text); };
  const auto loads = [&] {
    const auto loaded = tl::state_dict(*tl::Backbone<Toy>::pretrained(folder.path).core.network);
    for (std::size_t i = 0; i < state.size(); ++i) CHECK(at::equal(loaded[i].second, state[i].second));
  };
  CHECK_THAT(loading(folder.path), ContainsSubstring("has no model.safetensors"));
  CHECK_THAT(loading(folder.path / "absent"), ContainsSubstring("No such file"));

  // In pieces, which an index names.
  const std::string first = "model-00001-of-00002.safetensors", second = "model-00002-of-00002.safetensors";
  const auto write_index = [&](const std::string& last) {
    std::string map;
    for (std::size_t i = 0; i < state.size(); ++i)
      map += (i == 0 ? "\"" : ",\"") + state[i].first + "\":\"" + (i < 4 ? first : last) + "\"";
    tl::write_file(folder.path / "model.safetensors.index.json", "{\"weight_map\":{" + map + "}}");
  };
  tl::write_state_dict(folder.path / first, front);
  tl::write_state_dict(folder.path / second, back);
  write_index(second);
  loads();
  for (const char* last : {"..", ".", "sub/x.safetensors", "/etc/passwd", ""}) {
    write_index(last);
    CHECK_THAT(loading(folder.path),
               ContainsSubstring("no name of a file beside") || ContainsSubstring("not a folder"));
  }
  write_index(second);
  tl::write_state_dict(folder.path / second, {back.begin() + 1, back.end()});
  CHECK_THAT(loading(folder.path), ContainsSubstring("tensor \"" + back[0].first + "\" is not in " + second));
  tl::write_state_dict(folder.path / second, state);
  CHECK_THAT(loading(folder.path), ContainsSubstring("\" of " + second + " is not in the index"));
  tl::write_file(folder.path / "model.safetensors.index.json", "{}");
  CHECK_THAT(loading(folder.path), ContainsSubstring("no object \"weight_map\""));

  // In one, which goes before.
  tl::write_state_dict(folder.path / "model.safetensors", state);
  for (const char* name : {"keras_toy", "toy", "toy.first", "toy_second"}) {
    config(std::string("{\"architecture\": \"") + name + "\", \"num_classes\": 6}");
    loads();
  }
  for (const char* none : {"{}", "{\"architecture\": 3}", "[]"}) {
    config(none);
    loads();
  }
  config("{\"architecture\": \"first\"}");
  CHECK_THAT(loading(folder.path),
             ContainsSubstring("are of \"first\"") && ContainsSubstring("the network is keras_toy"));
  config("{");
  CHECK_THAT(loading(folder.path), ContainsSubstring("config.json"));
}

// Run by make_keras.py.
TEST_CASE("a peer's file", "[.][keras peer]") {
  const std::string network = std::getenv("KERAS_NETWORK");
  const fs::path file = std::getenv("KERAS_FILE"), in = std::getenv("KERAS_IN"), out = std::getenv("KERAS_OUT");
  const auto through = [&](auto backbone) {
    const auto& plan = dynamic_cast<const tl::Plan&>(*backbone.core.network);
    tl::write_keras_weights(out.string() + ".weights.h5", plan);
    tl::write_keras_weights(out.string() + ".h5", plan);
    const tl::Graph& graph = plan.graph();
    const Tensor pictures = tl::read_state_dict(in).front().second;
    const torch::NoGradGuard guard;
    const Index wanted[] = {graph.pooled};
    const auto pooled = graph.run({pictures}, {}, wanted, {}, backbone.core.frozen);
    tl::write_state_dict(out.string() + ".safetensors", {{"pooled", pooled.front()}});
  };
  if (network == "keras_mobilenet_v2")
    through(tl::Backbone<tl::KerasMobileNetV2>::pretrained(file));
  else if (network == "keras_mobilenet_v3_small")
    through(tl::Backbone<tl::KerasMobileNetV3Small>::pretrained(file));
  else
    through(tl::Backbone<tl::KerasEfficientNetB0>::pretrained(file));
}
