// darknet's .cfg and .weights: every layer against an interpreter in Python, files byte for byte, and what is refused.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <unistd.h>

// LibTorch's logging has a macro of this name, which ends the program where Catch2's counts a failure.
#undef CHECK
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <transferlib/backbones/darknet.hpp>
#include <transferlib/core/hash.hpp>
#include <transferlib/darknet.hpp>
#include <transferlib/data/pictures.hpp>
#include <transferlib/engine/engine.hpp>
#include <transferlib/freeze/policy.hpp>
#include <transferlib/heads/vector_head.hpp>
#include <transferlib/model/classifier.hpp>
#include <transferlib/zoo.hpp>

#include "as_darknet.hpp"
#include "folder.hpp"
#include "formula.hpp"

using namespace transferlib;
using Catch::Matchers::ContainsSubstring;
using toys::Folder;

namespace {

DarknetConfig layers_cfg() { return read_darknet_cfg(data_folder() / "darknet" / "layers.cfg"); }

/// A classifier of three stages whose pictures are 32 x 32.
const std::string classifier_cfg = R"([net]
width=32
height=32
channels=3
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky
[maxpool]
size=2
stride=2
[convolutional]
batch_normalize=1
filters=12
size=3
pad=1
activation=leaky
[convolutional]
batch_normalize=1
filters=16
size=3
stride=2
pad=1
activation=mish
[avgpool]
[convolutional]
filters=10
size=1
activation=linear
[softmax]
)";

template <class Thrown = FormatError, class Work>
std::string sentence_of(Work&& work) {
  try {
    work();
  } catch (const Thrown& e) {
    return e.what();
  }
  return "no error";
}

Activations run(const Graph& graph, const Tensor& x, const std::vector<Index>& wanted) {
  const torch::NoGradGuard guard;
  return graph.run({x}, Cut{}, wanted, {}, std::vector<bool>(graph.table.rows.size(), true));
}

std::vector<Index> all_steps(const Darknet& network) {
  std::vector<Index> out;
  for (Index n = 0; n < network.config().used; ++n) out.push_back(network.step_of(n));
  return out;
}

/// The folder of data that is not the project's; empty where nobody told it.
std::filesystem::path extra_data() {
  const char* folder = std::getenv("TRANSFERLIB_TEST_DATA_EXTRA");
  return folder == nullptr ? "" : folder;
}

void put(const std::filesystem::path& path, std::string_view bytes) { write_file(path, bytes); }

}  // namespace

TEST_CASE("dropout layers of a .cfg can be left out of training") {
  const DarknetConfig config = layers_cfg();
  const auto pass_of = [&](bool dropout, Index number) {
    const transferlib::detail::BackboneCore core = transferlib::detail::darknet_core(config, {.dropout = dropout});
    const Index size = core.preprocessing.size;
    const Tensor x = at::linspace(0.0, 1.0, 2 * core.options.in_channels * size * size);
    const std::vector<Index> last{core.graph.size() - 1};
    return core.graph
        .run({x.view({2, core.options.in_channels, size, size})}, Cut{}, last, {true, 0, number}, core.frozen)
        .at(0);
  };
  CHECK(!pass_of(true, 0).equal(pass_of(true, 1)));
  CHECK(pass_of(false, 0).equal(pass_of(false, 1)));
}

TEST_CASE("every layer computes what Python's interpreter does") {
  const Json want = python("darknet.json");
  Darknet network(layers_cfg());
  fill(network);

  std::string lines, rows;
  for (const auto& [name, tensor] : state_dict(network)) {
    lines += name + " " + type_name(tensor.scalar_type());
    for (const Index side : tensor.sizes()) lines += transferlib::detail::text(" ", side);
    lines += "\n";
  }
  CHECK(Sha256().add(std::as_bytes(std::span(lines.data(), lines.size()))).hex().substr(0, 16) ==
        want["names"].get<std::string>());
  std::vector<std::string> names;
  for (const Layer& row : network.graph().table.rows) names.push_back(row.name);
  CHECK(names == want["rows"].get<std::vector<std::string>>());

  const Tensor x = pictures(2, 36).to(at::kFloat) / 255.0;
  const auto got = run(network.graph(), x, all_steps(network));
  REQUIRE(got.size() == want["layers"].size());
  const auto shapes = darknet_shapes(network.config(), network.config().input);
  for (std::size_t n = 0; n < got.size(); ++n) {
    CAPTURE(n, to_string(network.config().layers[n].type));
    CHECK(difference(want["layers"][n], got[n]) <= 1e-5);
    CHECK(got[n].sizes() == at::IntArrayRef({2, shapes[n].channels, shapes[n].height, shapes[n].width}));
  }
  // Each number can be missed: a norm's epsilon, say.
  for (const Step& step : network.graph().steps)
    if (auto* norm = dynamic_cast<nn::BatchNorm2d*>(step.module.get())) norm->epsilon = 1e-3;
  CHECK(difference(want["layers"][0], run(network.graph(), x, all_steps(network))[0]) > 1e-5);
  for (const Step& step : network.graph().steps)
    if (auto* norm = dynamic_cast<nn::BatchNorm2d*>(step.module.get())) norm->epsilon = 1e-5;

  // The same from memory of the other order, and by the engine.
  const auto last = run(network.graph(), x.contiguous(at::MemoryFormat::ChannelsLast), all_steps(network));
  const std::vector<Index> wanted = all_steps(network), input{3, 36, 36};
  const auto fast = Engine(network.graph(), wanted, input, {.precision = Precision::fp32})(x);
  for (std::size_t n = 0; n < got.size(); ++n) {
    CAPTURE(n, to_string(network.config().layers[n].type));
    CHECK(at::allclose(last[n], got[n], 1e-4, 1e-5));
    CHECK(at::allclose(fast[n], got[n], 1e-4, 1e-5));
  }
}

TEST_CASE("reorg is darknet's, index by index") {
  for (const bool odd : {true, false}) {
    const Index b = 2, c = 8, h = 6, w = 4, s = 2;
    const Tensor x = at::arange(b * c * h * w, at::kFloat).reshape({b, c, h, w});
    const Tensor y = transferlib::detail::darknet_reorg(x, s, odd).contiguous();
    REQUIRE(y.sizes() == at::IntArrayRef({b, c * s * s, h / s, w / s}));
    // The loop of darknet's reorg_cpu; `reorg` gives it the input's sides for those of the output.
    const Index out_c = odd ? c : c * s * s, out_h = odd ? h : h / s, out_w = odd ? w : w / s, in_c = out_c / (s * s);
    const float *from = x.const_data_ptr<float>(), *to = y.const_data_ptr<float>();
    for (Index n = 0; n < b; ++n)
      for (Index k = 0; k < out_c; ++k)
        for (Index j = 0; j < out_h; ++j)
          for (Index i = 0; i < out_w; ++i) {
            const Index offset = k / in_c, row = j * s + offset / s, column = i * s + offset % s;
            const float wanted = from[column + out_w * s * (row + out_h * s * (k % in_c + in_c * n))];
            REQUIRE(to[i + out_w * (j + out_h * (k + out_c * n))] == wanted);
          }
  }
}

TEST_CASE("max-pooling pads as darknet's loop does") {
  for (const auto& [size, stride, padding] : std::vector<std::tuple<Index, Index, Index>>{{2, 2, 1},
                                                                                          {2, 1, 1},
                                                                                          {3, 2, 2},
                                                                                          {3, 1, 2},
                                                                                          {5, 1, 4},
                                                                                          {2, 2, 0},
                                                                                          {3, 2, 0},
                                                                                          {4, 2, 3},
                                                                                          {2, 3, 1},
                                                                                          {3, 2, 5}})
    for (const Index side : {6, 7, 13}) {
      CAPTURE(size, stride, padding, side);
      const Tensor x = at::sin(at::arange(2 * side * (side + 2), at::kFloat) * 1.7).reshape({1, 2, side, side + 2});
      const Tensor y = transferlib::detail::darknet_max_pool(x, size, stride, padding);
      const Index rows = (side + padding - size) / stride + 1, columns = (side + 2 + padding - size) / stride + 1;
      REQUIRE(y.sizes() == at::IntArrayRef({1, 2, rows, columns}));
      for (Index c = 0; c < 2; ++c)
        for (Index i = 0; i < rows; ++i)
          for (Index j = 0; j < columns; ++j) {
            float most = -std::numeric_limits<float>::infinity();
            for (Index n = 0; n < size; ++n)
              for (Index m = 0; m < size; ++m) {
                const Index row = i * stride + n - padding / 2, column = j * stride + m - padding / 2;
                if (row >= 0 && row < side && column >= 0 && column < side + 2)
                  most = std::max(most, x[0][c][row][column].item<float>());
              }
            REQUIRE(y[0][c][i][j].item<float>() == most);
          }
    }
}

TEST_CASE("what is no .cfg that can be run is refused with file and line") {
  const std::string net = "[net]\nwidth=32\nheight=32\n";                                              // lines 1 to 3
  const std::string conv = "[convolutional]\nfilters=8\nsize=3\nstride=1\npad=1\nactivation=leaky\n";  // lines 4 to 9
  const std::vector<std::pair<std::string, std::string>> bad{
      {"", "c.cfg: there is no section in it; a darknet .cfg begins with [net]"},
      {"\n# a remark\n[convolutional]\nfilters=1\n", "c.cfg:3: [convolutional] comes first; a .cfg begins with [net]"},
      {"width=3\n[net]\n", "c.cfg:1: \"width=3\" stands before the first section"},
      {"[net\n", "c.cfg:1: \"[net\" begins a section and must be as [net]"},
      {"[net]\nwidth\n", "c.cfg:2: \"width\" is no line of a .cfg"},
      {"[net]\nwidth=32\n" + conv, "c.cfg:1: [net] has no line height=…"},
      {net, "c.cfg: the network has 0 layers"},
      {"[net]\nwidth=3.5\nheight=32\n" + conv, "c.cfg:2: [net] \"width=3.5\" can't be read: a whole number is wanted"},
      {"[net]\nwidth=0\nheight=32\n" + conv, "c.cfg:2: [net] width=0 is not possible: it must be from 1 to 65536"},
      {net + "[attention]\n",
       "c.cfg:4: [attention] is a layer that is not known here; those that are: convolutional, "},
      {net + "[convolutional]\nfiltres=8\n", "c.cfg:4: [convolutional] has no line filters=…"},
      {net + "[convolutional]\nfilters=eight\n", "c.cfg:5: [convolutional] \"filters=eight\" can't be read"},
      {net + "[convolutional]\nfilters=8\nactivation=lekay\n",
       "c.cfg:6: [convolutional] the activation \"lekay\" is not one of linear, leaky, relu, relu6, mish, swish, "
       "logistic, tanh"},
      {net + "[convolutional]\nfilters=8\ngroups=2\n",
       "c.cfg:4: [convolutional]: groups=2 does not divide its 3 input"},
      {net + "[convolutional]\nfilters=8\nxnor=1\n", "c.cfg:6: [convolutional] \"xnor=1\" is not implemented"},
      {net + "[convolutional]\nfilters=8\nsize=3\ndilation=2\n", "with dilation=2 darknet is only consistent"},
      {net + "[convolutional]\nfilters=8\nstride_x=2\nstride=1\n", "stride_x and stride_y must be equal to stride"},
      {net + "[convolutional]\nfilters=8\nsize=33\n",
       "c.cfg:4: [convolutional]: a window of 33 does not fit into a map of 32"},
      {net + conv + "[route]\n", "c.cfg:10: [route] has no line layers=…"},
      {net + conv + "[route]\nlayers=1\n", "c.cfg:11: [route] layers=1 is no layer before this one, which is layer 1"},
      {net + conv + "[route]\nlayers=-2\n", "c.cfg:11: [route] layers=-2 is no layer before this one"},
      {net + conv + "[route]\nlayers=-1,\n", "c.cfg:11: [route] \"layers=-1,\" can't be read: a list of numbers"},
      {net + conv + "[route]\nlayers=-1\ngroups=3\n",
       "c.cfg:10: [route]: groups=3 does not divide the 8 channels of layer 0"},
      {net + conv + "[route]\nlayers=-1\ngroups=2\ngroup_id=2\n", "group_id=2 is not one of 2 groups"},
      {net + conv + "[maxpool]\nstride=2\n[route]\nlayers=-1,-2\n", "c.cfg:12: [route]: joins layer 0 of 8 x 32 x 32"},
      {net + conv + "[upsample]\n[shortcut]\nfrom=0\n",
       "c.cfg:11: [shortcut]: adds layer 0 of 8 x 32 x 32 to 8 x 64 x 64"},
      {net + conv + "[shortcut]\nfrom=0\nweights_type=per_channel\n",
       "\"weights_type=per_channel\" is not implemented"},
      {net + conv + "[reorg]\nstride=3\n", "c.cfg:10: [reorg]: stride=3 does not fit a map of 8 x 32 x 32"},
      {net + conv + "[dropout]\nprobability=2\n",
       "c.cfg:11: [dropout] probability=2 is not possible: it must be from 0 to 1"},
      {net + conv + "[softmax]\ngroups=3\n", "groups=3 does not divide its 8 x 32 x 32 inputs"},
      {net + conv + "[yolo]\nclasses=4\n", "c.cfg:10: [yolo]: takes 8 channels, and 1 boxes of 4 numbers"},
      {net + conv + "[yolo]\nnum=3\nmask=3\n", "c.cfg:10: [yolo]: mask names anchor 3, and there are 3 (num), from 0"},
      {net + conv + "[yolo]\nnum=3\nanchors=1,2,3\n",
       "c.cfg:10: [yolo]: anchors has 3 numbers, and 3 anchors (num) need"},
      {net + conv + "[region]\ntree=a.tree\n", "c.cfg:11: [region] \"tree=a.tree\" is not implemented"},
      {net + conv + "[local]\nfilters=2\nsize=5\npad=1\n", "c.cfg:10: [local]: with pad=1 darknet is only consistent"},
      {net + conv + "[detection]\n", "[detection]: takes 8192 values, and 7 x 7 places"},
      {net + conv + "[connected]\noutput=1048576\n", "with this layer the network has more than 4294967296 weights"},
  };
  for (const auto& [cfg, sentence] : bad) {
    CAPTURE(cfg);
    CHECK_THAT(sentence_of([&c = cfg] { parse_darknet_cfg(c, "c.cfg"); }), ContainsSubstring(sentence));
  }
  // What is not meant for us is let alone, and what is left out is told.
  const auto config = parse_darknet_cfg("\xEF\xBB\xBF[network]\r\n width = 32 ;\r\nheight=+32\r\nmomentum=x\r\n" +
                                            conv + "[crop]\ncrop_width=28\ncrop_height=28\n",
                                        "c.cfg");
  CHECK(config.input == DarknetShape{3, 32, 32});
  REQUIRE(config.notes.size() == 1);
  CHECK_THAT(config.notes[0], ContainsSubstring("c.cfg:11: [crop] does nothing"));
}

TEST_CASE("a detector finds its numbers in the layers") {
  const auto config = layers_cfg();
  const DarknetLayer& yolo = config.layers[17];
  CHECK(yolo.type == DarknetType::yolo);
  CHECK(yolo.mask == std::vector<Index>{0, 1, 2});
  CHECK(yolo.boxes == 3);
  CHECK(yolo.classes == 4);
  CHECK(yolo.anchors.size() == 12);
  CHECK(yolo.anchors[1] == 13.0);
  CHECK(yolo.scale_x_y == 1.2);
  REQUIRE(yolo.find("beta_nms") != nullptr);
  CHECK(*yolo.find("beta_nms") == "0.6");
  CHECK(yolo.find("nms_kind") == nullptr);
  const DarknetLayer& region = config.layers[19];
  CHECK(region.type == DarknetType::region);
  CHECK(region.boxes == 3);
  CHECK(region.softmax);
}

TEST_CASE("the published backbones have their files' lengths and pyramid") {
  // Bytes of darknet53.weights, of darknet53.conv.74 (which is without the classifier) and of darknet19.weights.
  const auto bytes = [](const DarknetConfig& config, Index layers, Index header) {
    Index floats = 0;
    for (const DarknetBlob& blob : darknet_blobs(config))
      if (blob.layer < layers) floats += blob.count;
    return 4 * floats + header;
  };
  const auto config = transferlib::detail::darknet53_cfg("darknet53.cfg", false, "leaky");
  CHECK(config.layers.size() == 78);
  CHECK(bytes(config, 78, 20) == 166582580);
  CHECK(bytes(config, 75, 20) == 162482580);
  CHECK(transferlib::detail::darknet53_cfg("csdarknet53.cfg", true, "leaky").layers.size() == 108);
  CHECK(bytes(transferlib::detail::darknet19_cfg(), 26, 20) == 83427124);

  const auto backbone = Backbone<DarkNet19>::random({.size = 64});
  CHECK(backbone.features().strides == std::vector<Index>{4, 8, 16, 32});
  CHECK(backbone.features().channels == std::vector<Index>{128, 256, 512, 1024});
  CHECK(backbone.features().width == 1024);
  CHECK(backbone.core.graph.logits != 0);
  CHECK_THAT(sentence_of<OptionError>([] { Backbone<DarkNet19>::random({.output_stride = 16}); }),
             ContainsSubstring("no dilation for an output stride of 16"));
}

TEST_CASE("weights are read, refused and written byte for byte") {
  const Folder folder;
  const auto config = layers_cfg();
  Darknet network(config);
  fill(network);
  const auto path = folder.path / "a.weights", again = folder.path / "b.weights";

  for (const DarknetHeader& header :
       {DarknetHeader{0, 2, 5, 32013312}, DarknetHeader{0, 1, 0, 77}, DarknetHeader{0, 1002, 0, 1}}) {
    CAPTURE(header.minor);
    write_darknet_weights(path, network, header);
    const std::string bytes = read_file(path);
    const auto view = std::as_bytes(std::span(bytes.data(), bytes.size()));
    const DarknetHeader read = parse_darknet_header(view, "a.weights");
    CHECK(read.size() == (header.minor == 1 ? 16U : 20U));
    CHECK(read.seen == header.seen);
    Index floats = 0;
    for (const DarknetBlob& blob : darknet_blobs(config)) floats += blob.count;
    CHECK(static_cast<Index>(bytes.size()) == 4 * floats + static_cast<Index>(read.size()));

    Darknet other(config);
    auto state = other.read_nameless(path);
    REQUIRE(state.has_value());
    load_state_dict(other, *state, {}, "a.weights");
    for (const auto& [name, tensor] : state_dict(network)) {
      CAPTURE(name);
      for (const auto& [theirs, read_tensor] : state_dict(other))
        if (theirs == name && !name.ends_with("num_batches_tracked")) CHECK(at::equal(tensor, read_tensor));
    }
    write_darknet_weights(again, other, read);
    CHECK(read_file(again) == bytes);
  }

  // The order of a convolution's numbers: bias, scale, mean, variance, weights; of a matrix: bias, weights, the others.
  write_darknet_weights(path, network);
  const std::string bytes = read_file(path);
  std::vector<float> floats((bytes.size() - 20) / 4);
  std::memcpy(floats.data(), bytes.data() + 20, 4 * floats.size());
  const auto state = state_dict(network);
  const auto first_of = [&](std::string_view name) {
    for (const auto& item : state)
      if (item.first == name) return item.second.flatten()[0].item<float>();
    return 0.0F;
  };
  CHECK(floats[0] == first_of("0.bn.bias"));
  CHECK(floats[8] == first_of("0.bn.weight"));
  CHECK(floats[16] == first_of("0.bn.running_mean"));
  CHECK(floats[24] == first_of("0.bn.running_var"));
  CHECK(floats[32] == first_of("0.conv.weight"));
  std::size_t at = 0;
  for (const DarknetBlob& blob : darknet_blobs(config)) {
    if (blob.name == "25.bn.bias") CHECK(floats[at + 20] == first_of("25.connected.weight"));
    if (blob.name == "25.bn.weight") CHECK(floats[at] == first_of("25.bn.weight"));
    at += static_cast<std::size_t>(blob.count);
  }
  CHECK(at == floats.size());

  const auto refused = [&](std::string_view text, const DarknetWeightsOptions& options = {}) {
    return sentence_of([&] {
      parse_darknet_weights(std::as_bytes(std::span(text.data(), text.size())), "a.weights", config, options);
    });
  };
  const std::string count = std::to_string(floats.size());
  CHECK(refused(bytes) == "no error");
  CHECK_THAT(refused(bytes + "1234"),
             ContainsSubstring("has " + std::to_string(floats.size() + 1) + " floats behind") &&
                 ContainsSubstring("need " + count + "; it is of another network"));
  CHECK_THAT(refused(bytes + "12"), ContainsSubstring("has " + count + " floats and a part of one"));
  CHECK_THAT(refused(bytes.substr(0, bytes.size() - 4)), ContainsSubstring("the file is cut, or of another network"));
  CHECK_THAT(refused(bytes.substr(0, 20 + 4 * 248)),
             ContainsSubstring("has 248 floats") && ContainsSubstring("the first layers only, which can be asked for"));
  CHECK(refused(bytes.substr(0, 20 + 4 * 248), {.least = 1}) == "no error");
  CHECK_THAT(refused(bytes.substr(0, 20 + 4 * 247), {.least = 0}), ContainsSubstring("has 247 floats"));
  CHECK_THAT(refused(bytes.substr(0, 18)),
             ContainsSubstring("the header of version 0.2 has 20 bytes, and the file 18"));
  CHECK_THAT(refused(bytes.substr(0, 8)), ContainsSubstring("does not begin as darknet's .weights do"));
  CHECK_THAT(refused(std::string(64, '\0')), ContainsSubstring("does not begin as darknet's .weights do"));
}

TEST_CASE("a .cfg is a backbone: cut, at another size, for other channels, with a file that has less or more") {
  const Folder folder;
  const auto cfg = folder.path / "small.cfg", whole = folder.path / "small.weights", cut = folder.path / "small.conv.4";
  put(cfg, classifier_cfg);
  const auto original = darknet_backbone(cfg, {.seed = 3});
  const auto& network = dynamic_cast<const Darknet&>(*original.core.network);
  CHECK(network.feature_layers() == 4);
  CHECK(original.features().strides == std::vector<Index>{4, 8});
  CHECK(original.features().channels == std::vector<Index>{12, 16});
  CHECK(original.preprocessing().size == 32);
  CHECK(original.preprocessing().mean == std::array<double, 3>{0.0, 0.0, 0.0});
  write_darknet_weights(whole, network);

  const Tensor x = pictures(2, 32).to(at::kFloat) / 255.0;
  const auto pooled = [&](const AnyBackbone& b, const Tensor& picture) {
    return run(b.core.graph, picture, {b.core.graph.pooled})[0];
  };
  const Tensor want = pooled(original, x);
  CHECK(want.abs().sum().item<double>() > 0.0);

  const auto again = darknet_backbone(cfg, whole);
  CHECK(at::equal(pooled(again, x), want));
  CHECK(again.core.graph.logits != 0);
  CHECK(again.core.source == "small.weights");
  CHECK(run(again.core.graph, x, {again.core.graph.logits})[0].sizes() == at::IntArrayRef({2, 10}));

  // The first layers: of the whole file, and of their own.
  const auto first = darknet_backbone(cfg, whole, {.layers = 4});
  CHECK(at::equal(pooled(first, x), want));
  CHECK(first.core.graph.logits == 0);
  CHECK(first.layers().rows.back().name == "3.act");
  write_darknet_weights(cut, dynamic_cast<const Darknet&>(*first.core.network));
  CHECK(std::filesystem::file_size(cut) < std::filesystem::file_size(whole));
  CHECK(read_file(whole).substr(0, std::filesystem::file_size(cut)) == read_file(cut));
  CHECK(at::equal(pooled(darknet_backbone(cfg, cut, {.layers = 4}), x), want));
  // A classifier on it is saved with its .cfg, from which it is built again.
  {
    const AnyClassifier<> model(darknet_backbone(cfg, whole, {.layers = 4}), FreezePolicy<FreezeAll>{},
                                any_head("linear", 0.0, 1), {"a", "b"});
    save(model, folder.path / "model.safetensors");
    const auto back = load_any(folder.path / "model.safetensors");
    CHECK(back.backbone_core().kind() == "darknet");
    const Batch batch{{pictures(2, 32)}, {}, {}, {}};
    CHECK(at::equal(back.predict(batch, Precision::fp32), model.predict(batch, Precision::fp32)));
    CHECK(clone(back).backbone_core().cfg(back.backbone_core()) == model.backbone_core().cfg(model.backbone_core()));
  }
  // A file without the classifier is enough for the features; there are no logits then.
  const auto headless = darknet_backbone(cfg, cut);
  CHECK(at::equal(pooled(headless, x), want));
  CHECK(headless.core.graph.logits == 0);
  // A file of fewer layers still must be asked for.
  const auto least = folder.path / "small.conv.1";
  put(least, read_file(whole).substr(0, 20 + 4 * (4 * 8 + 3 * 8 * 9)));
  CHECK_THAT(sentence_of([&] { darknet_backbone(cfg, least); }), ContainsSubstring("which can be asked for"));
  const auto asked = darknet_backbone(cfg, least, {.fewer = true, .seed = 3});
  CHECK(at::equal(run(asked.core.graph, x, {asked.core.graph.stages[0]})[0],
                  run(original.core.graph, x, {original.core.graph.stages[0]})[0]));  // the same seed drew the others
  CHECK(sentence_of([&] { darknet_backbone(cfg, cut, {.layers = 3}); }) == "no error");
  CHECK_THAT(sentence_of<OptionError>([&] { darknet_backbone(cfg, {.layers = 8}); }),
             ContainsSubstring("can't be cut to 8 layers: it has 7"));

  // Another size, and one grey channel whose kernel is the sum of the three.
  CHECK(darknet_backbone(cfg, whole, {.size = 47}).core.size() == 47);
  const auto grey = darknet_backbone(cfg, whole, {.in_channels = 1});
  const Tensor g = x.mean({1}, true);
  CHECK(at::allclose(pooled(grey, g), pooled(original, g.expand({2, 3, 32, 32})), 1e-4, 1e-5));

  // A state dict with our names is a file too.
  const auto safetensors = folder.path / "small.safetensors";
  write_state_dict(safetensors, state_dict(network));
  CHECK(at::equal(pooled(darknet_backbone(cfg, safetensors), x), want));

  // Frozen until darknet's layer 3: its convolution and what stands behind it are trained.
  Classifier model(darknet_backbone(cfg, whole), FreezePolicy<FreezeUntil>{{"3"}}, Head<Linear>{}, Labels{"a", "b"});
  std::vector<std::string> trained;
  for (const auto& item : model.backbone_core().network->named_parameters())
    if (item.value().requires_grad()) trained.push_back(item.key());
  CHECK(trained ==
        std::vector<std::string>{"3.conv.weight", "3.bn.weight", "3.bn.bias", "5.conv.weight", "5.conv.bias"});
  const auto copy = clone(model);
  CHECK(at::equal(copy.backbone_core().network->parameters()[0], model.backbone_core().network->parameters()[0]));

  put(cfg, "[net]\nwidth=32\nheight=16\n[convolutional]\nfilters=4\nactivation=relu\n");
  CHECK_THAT(sentence_of<OptionError>([&] { Darknet(read_darknet_cfg(cfg)); }),
             ContainsSubstring("the network's pictures are 32 x 16, and pictures here are squares"));
  put(cfg, "[net]\nwidth=32\nheight=32\n[crop]\ncrop_width=28\ncrop_height=28\n[convolutional]\nfilters=4\n");
  const auto cropped = darknet_backbone(cfg);
  CHECK(cropped.preprocessing().size == 28);
  CHECK(cropped.preprocessing().crop_fraction == 28.0 / 32.0);
  CHECK(cropped.preprocessing().mean[0] == 0.5);
}

TEST_CASE("yolo-fastest 1.1 computes what darknet does, up to its detections") {
  const auto folder = extra_data() / "yolo-fastest";
  if (extra_data().empty() || !std::filesystem::exists(folder / "yolo-fastest-1.1.weights"))
    SKIP(
        "TRANSFERLIB_TEST_DATA_EXTRA names no folder that has yolo-fastest/yolo-fastest-1.1.{cfg,weights} and dog.jpg");
  const auto backbone = darknet_backbone(folder / "yolo-fastest-1.1.cfg", folder / "yolo-fastest-1.1.weights");
  const auto& network = dynamic_cast<const Darknet&>(*backbone.core.network);
  REQUIRE(network.config().layers.size() == 131);
  // darknet's own program: layer, sum, L2 norm, first value.
  const std::vector<std::tuple<Index, double, double, double>> darknet{{0, 250213.113, 1067.3444, 1.5217836},
                                                                       {53, 75434.662, 341.0696, -0.0166139},
                                                                       {109, 20286.072, 423.2750, 3.4404688},
                                                                       {121, 456.1205, 22.4942, 0.6142867},
                                                                       {130, 2705.6912, 39.4920, 0.6070915}};
  std::vector<Index> wanted;
  for (const auto& row : darknet) wanted.push_back(network.step_of(std::get<0>(row)));
  const Tensor picture = toys::read_as_darknet(read_file(folder / "dog.jpg"));
  const auto values = run(backbone.core.graph, at::upsample_bilinear2d(picture, {320, 320}, true), wanted);
  for (std::size_t i = 0; i < darknet.size(); ++i) {
    const auto& [layer, sum, norm, first] = darknet[i];
    CAPTURE(layer);
    const Tensor v = values[i].to(at::kDouble);
    const auto off = [](double got, double want) { return std::abs(got / want - 1.0); };
    CHECK(off(v.sum().item<double>(), sum) <= 1e-4);
    CHECK(off(v.norm().item<double>(), norm) <= 1e-4);
    // A single value depends on few pixels, of which the decoders still round one in two hundred differently.
    CHECK(std::abs(v.flatten()[0].item<double>() - first) <= 3e-4 * v.abs().max().item<double>());
  }
  // The file's bytes come back.
  const Folder out;
  const std::string bytes = read_file(folder / "yolo-fastest-1.1.weights");
  const DarknetHeader header =
      parse_darknet_header(std::as_bytes(std::span(bytes.data(), bytes.size())), "yolo-fastest");
  write_darknet_weights(out.path / "again.weights", network, header);
  CHECK(read_file(out.path / "again.weights") == bytes);
}
