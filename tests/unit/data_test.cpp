// Data sets, what is made of pictures (compared with torchvision's numbers), augmentation, and the loader.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <mutex>
#include <set>
#include <span>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <transferlib/core/concepts.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/parallel.hpp>
#include <transferlib/data/cifar.hpp>
#include <transferlib/data/image_folder.hpp>
#include <transferlib/data/loader.hpp>
#include <transferlib/data/mnist.hpp>
#include <transferlib/data/preprocess.hpp>
#include <transferlib/data/tensors_data.hpp>
#include <transferlib/data/transforms.hpp>
#include <transferlib/formats/safetensors.hpp>

namespace tl = transferlib;
using namespace transferlib;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::StartsWith;

namespace {

const std::filesystem::path data_folder = std::filesystem::path(__FILE__).parent_path().parent_path() / "data";

/// A folder that is there as long as the test.
struct TemporaryFolder {
  std::filesystem::path path;
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "transferlib-data-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  /// Writes a file and the folders above it.
  void write(const std::string& name, std::string_view bytes) const {
    make_folders((path / name).parent_path());
    write_file(path / name, bytes);
  }
  void copy(std::string_view picture, const std::string& name) const {
    write(name, read_file(data_folder / "pictures" / picture));
  }
};

/// The sentence of the error of type E that `call` throws.
template <class E, class Call>
std::string message_of(Call&& call) {
  try {
    call();
  } catch (const E& e) {
    return e.what();
  } catch (const std::exception& e) {
    return std::string("another type: ") + e.what();
  }
  return "no error";
}

/// The pictures of tests/parity/make_transforms.py: (1, channels, height, width) uint8.
Tensor formula(Index channels, Index height, Index width, Index seed = 0) {
  Tensor out = at::empty({1, channels, height, width}, at::kByte);
  auto* p = out.mutable_data_ptr<std::uint8_t>();
  for (Index c = 0; c < channels; ++c)
    for (Index y = 0; y < height; ++y)
      for (Index x = 0; x < width; ++x)
        *p++ = static_cast<std::uint8_t>((c * 67 + y * 31 + x * 17 + (x * y * 7) % 53 + seed * 11) % 256);
  return out;
}

Tensor pictures_of(Index n, Index channels, Index height, Index width) {
  std::vector<Tensor> all;
  for (Index i = 0; i < n; ++i) all.push_back(formula(channels, height, width, i));
  return at::cat(all);
}

const std::map<std::string, Tensor>& peer() {
  static const std::map<std::string, Tensor> all = [] {
    const std::string bytes = read_file(data_folder / "parity" / "transforms.safetensors");
    const Checkpoint file = parse_safetensors(std::as_bytes(std::span(bytes.data(), bytes.size())), "transforms");
    std::map<std::string, Tensor> out;
    for (const TensorView& t : file.tensors) {
      const auto type = t.dtype == DType::u8 ? at::kByte : t.dtype == DType::f64 ? at::kDouble : at::kFloat;
      Tensor x = at::empty(t.shape, type);
      std::memcpy(x.mutable_data_ptr(),
                  t.storage.data() + static_cast<std::size_t>(t.storage_offset * x.element_size()), x.nbytes());
      out.emplace(t.name, x);
    }
    return out;
  }();
  return all;
}

std::vector<std::string> words_of(std::string_view key, char separator = '/') {
  std::vector<std::string> out(1);
  for (char c : key) {
    if (c == separator)
      out.emplace_back();
    else
      out.back() += c;
  }
  return out;
}

std::array<Index, 2> size_of_key(const std::string& words) {
  const auto parts = words_of(words, 'x');
  return {std::stoll(parts.at(0)), std::stoll(parts.at(1))};
}

double difference(const Tensor& a, const Tensor& b) {
  if (a.sizes() != b.sizes()) return INFINITY;
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

Interpolation mode_of(std::string_view name) {
  return name == "bilinear"  ? Interpolation::bilinear
         : name == "bicubic" ? Interpolation::bicubic
                             : Interpolation::nearest;
}

Batch one(const Tensor& pictures) { return Batch{{pictures}, {}, {}}; }

std::vector<Draw> draws_of(Index n, Index view = 0, std::uint64_t seed = 1, Index first = 0) {
  std::vector<Draw> out;
  for (Index i = 0; i < n; ++i) out.push_back({seed, view, first + i});
  return out;
}

template <class T>
Batch transformed(const T& transform, Batch batch, const std::vector<Draw>& draws) {
  transform(batch, draws, ClassIndex{});
  return batch;
}

static_assert(Dataset<Cifar10> && Dataset<Cifar100> && Dataset<Mnist> && Dataset<FashionMnist>);
static_assert(Dataset<ImageFolder> && Dataset<TensorData<MultiLabel>> && Dataset<TensorData<Values>>);
static_assert(TransformFor<Flip, ClassIndex> && TransformFor<Flip, MultiLabel> && !TransformFor<Flip, Boxes>);
static_assert(TransformFor<NoTransform, Boxes> && !TransformFor<RandomResizedCrop, Boxes>);
static_assert(!TransformFor<ColourJitter, Boxes> && !TransformFor<CentreCrop, Boxes> && !TransformFor<Resize, Boxes>);
static_assert(TransformFor<Compose<Flip, ColourJitter>, Values> && !TransformFor<Compose<Flip, NoTransform>, Boxes>);
static_assert(TransformFor<AnyTransform<ClassIndex>, ClassIndex> && !TransformFor<AnyTransform<ClassIndex>, Boxes>);

}  // namespace

TEST_CASE("resize gives torchvision's pixels") {
  std::size_t cases = 0;
  for (const auto& [key, want] : peer()) {
    const auto words = words_of(key);
    if (words[0] != "resize") continue;
    INFO(key);
    ++cases;
    const auto size = size_of_key(words[3]);
    const bool bytes = words[2] == "u8";
    Tensor picture = bytes ? formula(3, 23, 17) : formula(1, 23, 17).to(at::kFloat) / 255.0;
    const Tensor got = resize(picture, size[0], size[1], mode_of(words[1]));
    CHECK(got.scalar_type() == picture.scalar_type());
    // uint8 in fixed point is the same everywhere but for processors without AVX2, which round otherwise by one.
    CHECK(difference(got[0], want) <= (bytes ? (at::get_cpu_capability() == "DEFAULT" ? 1.0 : 0.0) : 1e-6));
    // The same picture among others, channels last, and in an inference mode.
    const Tensor many =
        at::cat({at::zeros_like(picture), picture, at::ones_like(picture)}).contiguous(at::MemoryFormat::ChannelsLast);
    CHECK(at::equal(resize(many, size[0], size[1], mode_of(words[1]))[1], got[0]));
    const c10::InferenceMode mode;
    CHECK(at::equal(resize(many.clone(), size[0], size[1], mode_of(words[1]))[1], got[0]));
  }
  CHECK(cases == 20);
}

TEST_CASE("preprocess gives torchvision's Resize, CenterCrop, ToDtype and Normalize") {
  std::size_t cases = 0;
  for (const auto& [key, want] : peer()) {
    const auto words = words_of(key);
    if (words[0] != "preprocess") continue;
    INFO(key);
    ++cases;
    const auto side = size_of_key(words[2]);
    Preprocessing p{.size = std::stoll(words[3]), .interpolation = mode_of(words[1])};
    const Index scaled = std::stoll(words[4]);
    p.crop_fraction = static_cast<double>(p.size) / static_cast<double>(scaled);
    const Tensor picture = formula(3, side[0], side[1]);
    const Tensor got = preprocess(one(picture), p, 3);
    CHECK(got.scalar_type() == at::kFloat);
    const double step = at::get_cpu_capability() == "DEFAULT" ? 1.01 / 255 / 0.224 : 0.0;
    CHECK(difference(got[0], want) <= 1e-6 + step);
    // From float32 pixels: uint8's rounding is the only difference.
    const Tensor floats = preprocess(one(picture.to(at::kFloat) / 255.0), p, 3);
    CHECK(difference(floats[0], want) <= 0.51 / 255 / 0.224 * (p.interpolation == Interpolation::bicubic ? 12 : 2));
  }
  CHECK(cases == 4);
}

TEST_CASE("a shorter side is size / crop_fraction, rounded down") {
  CHECK(tl::detail::placement(500, 375, {.size = 224, .crop_fraction = 224 / 232.0}).inner.width == 232);
  CHECK(tl::detail::placement(500, 375, {.size = 224, .crop_fraction = 0.9}).inner.width == 248);
  const auto place = tl::detail::placement(375, 500, {.size = 224, .crop_fraction = 0.875});
  CHECK(place.inner == tl::PixelSize{341, 256});
  CHECK(place.top == -16);
  CHECK(place.left == -58);                 // 58.5, to the even neighbour
  CHECK(tl::detail::half_to_even(3) == 2);  // 1.5
  CHECK(tl::detail::half_to_even(1) == 0);  // 0.5
  CHECK(tl::detail::half_to_even(118) == 59);
}

TEST_CASE("what is prepared depends on the picture alone") {
  Batch mixed;
  mixed.pictures = {pictures_of(11, 3, 20, 31), pictures_of(1, 1, 25, 18), pictures_of(6, 3, 32, 32)};
  for (const auto interpolation : {Interpolation::bilinear, Interpolation::bicubic, Interpolation::nearest})
    for (const bool floats : {false, true}) {
      Batch batch = mixed;
      if (floats)
        for (Tensor& block : batch.pictures) block = block.to(at::kFloat) / 255.0;
      const Preprocessing p{.size = 24, .interpolation = interpolation, .crop_fraction = 0.8};
      const Tensor all = preprocess(batch, p, 3);
      CHECK(all.sizes() == at::IntArrayRef({18, 3, 24, 24}));
      CHECK(all.is_contiguous(at::MemoryFormat::ChannelsLast));
      Index at = 0;
      for (const Tensor& block : batch.pictures)
        for (Index i = 0; i < block.size(0); ++i, ++at)
          CHECK(at::equal(preprocess(one(block.narrow(0, i, 1)), p, 3)[0], all[at]));
      const int threads = at::get_num_threads();
      at::set_num_threads(threads == 1 ? 3 : 1);
      CHECK(at::equal(preprocess(batch, p, 3), all));
      at::set_num_threads(threads);
      CHECK(at::equal(preprocess(batch, p, 3, {}, at::kBFloat16), all.to(at::kBFloat16)));
      const c10::InferenceMode mode;
      CHECK(at::equal(preprocess(batch, p, 3), all));
    }
  const Preprocessing canvas{.size = 24, .fit = tl::Fit::darknet};
  const Tensor half = preprocess(mixed, canvas, 3, {}, at::kBFloat16);
  CHECK(half.is_contiguous(at::MemoryFormat::ChannelsLast));
  CHECK(at::equal(half, preprocess(mixed, canvas, 3).to(at::kBFloat16)));
  CHECK_THROWS_AS(preprocess(mixed, canvas, 3, {}, at::kHalf), tl::OptionError);
}

TEST_CASE("channels: grey is repeated, colour becomes grey for a network of one channel") {
  const Preprocessing p{.size = 16};
  const Tensor grey = formula(1, 16, 16);
  CHECK(at::equal(preprocess(one(grey), p, 3), preprocess(one(grey.expand({1, 3, 16, 16})), p, 3)));
  const Tensor colour = at::tensor({10, 200, 90}, at::kByte).reshape({1, 3, 1, 1}).expand({1, 3, 16, 16});
  const Tensor got = preprocess(one(colour), p, 1);
  CHECK(got.sizes() == at::IntArrayRef({1, 1, 16, 16}));
  const double luma = std::floor((19595 * 10 + 38470 * 200 + 7471 * 90 + 32768) / 65536.0);
  const double mean = (0.485 + 0.456 + 0.406) / 3, deviation = (0.229 + 0.224 + 0.225) / 3;
  CHECK(std::abs(got[0][0][3][5].item<double>() - (luma / 255 - mean) / deviation) < 1e-5);
  CHECK(difference(preprocess(one(colour.to(at::kFloat) / 255.0), p, 1), got) < 0.5 / 255 / deviation);
  CHECK(preprocess(one(formula(5, 16, 16)), p, 5).size(1) == 5);
}

TEST_CASE("preprocess and resize refuse what they can't do") {
  const Preprocessing p{.size = 8};
  CHECK(message_of<DataError>([&] { preprocess(one(formula(4, 9, 9)), p, 3); }) ==
        "the pictures have 4 channels and the network takes 3; drop the alpha channel: pictures.narrow(1, 0, 3)");
  CHECK(message_of<DataError>([&] { preprocess(one(formula(2, 9, 9)), p, 3); }) ==
        "the pictures have 2 channels and the network takes 3; only grey pictures can be turned to colour");
  CHECK(message_of<DataError>([&] {
          preprocess(one(at::zeros({2, 3, 4})), p, 3);
        }) == "pictures must be a tensor (N, C, H, W), not one of shape (2, 3, 4)");
  CHECK(message_of<DataError>([&] { preprocess(one(Tensor()), p, 3); }) ==
        "pictures must be a tensor (N, C, H, W), not an undefined one");
  CHECK(message_of<DataError>([&] {
          preprocess(one(at::zeros({2, 3, 4, 4}, at::kLong)), p, 3);
        }) == "pictures must be uint8 in 0 … 255 or float32 in [0, 1], not Long; convert them first");
  CHECK(message_of<DataError>([&] {
          preprocess(one(at::zeros({2, 3, 0, 4}, at::kByte)), p, 3);
        }) == "pictures of shape (2, 3, 0, 4) have no pixels");
  CHECK_THAT(message_of<DataError>([&] {
               preprocess(one(at::zeros({1, 3, 1, 900000}, at::kByte)), p, 3);
             }),
             ContainsSubstring("a picture of 900000 x 1 pixels is too long and thin"));
  CHECK(message_of<OptionError>([&] { preprocess(one(formula(3, 9, 9)), {.size = 0}, 3); }) ==
        "the size of a network's input must be at least 1 pixel, not 0");
  CHECK(message_of<OptionError>([&] { preprocess(one(formula(3, 9, 9)), {.crop_fraction = 1.5}, 3); }) ==
        "crop_fraction must lie in (0, 1], not 1.5");
  CHECK(message_of<OptionError>([&] {
          preprocess(one(formula(3, 9, 9)), {.deviation = {1, 0, 1}}, 3);
        }) == "each deviation of the preprocessing must be positive, not 0");
  CHECK(message_of<OptionError>([&] { preprocess(one(formula(3, 9, 9)), p, 0); }) ==
        "a network's input must have at least 1 channel, not 0");
  CHECK(message_of<OptionError>([] { resize(formula(3, 9, 9), 0, 4); }) == "pictures can't be resized to 0 x 4 pixels");
  CHECK(preprocess(Batch{}, p, 3).size(0) == 0);
  CHECK(preprocess(one(at::zeros({0, 3, 4, 4}, at::kByte)), p, 3).size(0) == 0);
}

TEST_CASE("tensors in memory are a data set") {
  const Tensor pictures = pictures_of(5, 3, 4, 6);
  const TensorData<ClassIndex> data(pictures, at::tensor({0, 1, 2, 1, 0}, at::kLong), {"a", "b", "c"});
  CHECK(data.size() == 5);
  CHECK(data.labels() == Labels{"a", "b", "c"});
  const std::vector<Index> ids{3, 0, 3};
  const Batch batch = data.batch(ids);
  REQUIRE(batch.pictures.size() == 1);
  CHECK(at::equal(batch.pictures[0], at::stack({pictures[3], pictures[0], pictures[3]})));
  CHECK(at::equal(batch.target, at::tensor({1, 0, 1}, at::kLong)));
  CHECK(at::equal(data.targets(ids), batch.target));
  batch.pictures[0].zero_();  // a copy: a transform may write on it
  CHECK(at::equal(data.pictures(), pictures));
  CHECK(at::equal(data.subset(2).pictures(), pictures.narrow(0, 0, 2)));
  CHECK(at::equal(data.subset(ids).target(), batch.target));
  CHECK(data.batch({}).size() == 0);

  CHECK(message_of<DataError>([&] { data.batch(std::vector<Index>{5}); }) ==
        "picture 5 does not exist: the data set has 5 pictures");
  CHECK(message_of<DataError>([&] { data.targets(std::vector<Index>{-1}); }) ==
        "picture -1 does not exist: the data set has 5 pictures");
  CHECK(message_of<DataError>([&] { data.subset(6); }) == "a subset of 6 pictures can't be taken: the data set has 5");
  using Data = TensorData<ClassIndex>;
  CHECK(message_of<DataError>([&] {
          Data(pictures, at::tensor({0, 1, 2, 1, 3}, at::kLong), {"a", "b", "c"});
        }) == "picture 4 has the label 3, which is out of range: there are 3 classes, so labels go from 0 to 2");
  CHECK(message_of<DataError>([&] { Data(pictures, at::zeros({4}, at::kLong), {"a"}); }) ==
        "the target of class indices must be an int64 tensor (5), one index a picture; it is Long of shape (4)");
  CHECK_THAT(message_of<DataError>([&] { Data(pictures, Tensor(), {"a"}); }), ContainsSubstring("it is undefined"));
  CHECK_THAT(message_of<DataError>([&] {
               TensorData<MultiLabel>(pictures, at::zeros({5, 3}), {"a", "b"});
             }),
             ContainsSubstring("must be a float32 tensor (5, 2), a row a picture, a column a class; it is Float of "
                               "shape (5, 3)"));
  CHECK(message_of<DataError>([&] {
          TensorData<Values>(pictures, at::zeros({5, 3}), {"a", "b"});
        }) == "the target has 3 values a picture and 2 names of values; give each value a name");
  CHECK_THAT(message_of<DataError>([&] { TensorData<Values>(pictures, at::zeros({5}), {"a"}); }),
             ContainsSubstring("the target of values must be a float32 tensor (5, D)"));
  CHECK(TensorData<MultiLabel>(pictures, at::ones({5, 2}), {"a", "b"}).batch(ids).target.size(1) == 2);
  CHECK(TensorData<Values>(pictures, at::ones({5, 1}), {"mass"}).targets(ids).size(0) == 3);
}

TEST_CASE("a fingerprint tells every change of the data, and nothing else") {
  const Tensor pictures = pictures_of(4, 3, 4, 6), target = at::tensor({0, 1, 0, 1}, at::kLong);
  using Data = TensorData<ClassIndex>;
  const std::string print = Data(pictures, target, {"a", "b"}).fingerprint();
  CHECK(print.size() == 64);
  CHECK(Data(pictures.clone(at::MemoryFormat::ChannelsLast), target.clone(), {"a", "b"}).fingerprint() == print);
  std::set<std::string> seen{print};
  Tensor pixel = pictures.clone();
  pixel[3][2][3][5] += 1;
  seen.insert(Data(pixel, target, {"a", "b"}).fingerprint());
  seen.insert(Data(pictures, 1 - target, {"a", "b"}).fingerprint());
  seen.insert(Data(pictures, target, {"a", "c"}).fingerprint());
  seen.insert(Data(pictures.reshape({4, 3, 6, 4}), target, {"a", "b"}).fingerprint());
  seen.insert(Data(pictures.to(at::kFloat), target, {"a", "b"}).fingerprint());
  seen.insert(Data(pictures, target, {"a", "b"}).subset(3).fingerprint());
  CHECK(seen.size() == 7);
  // From several threads at once.
  const Data shared(pictures, target, {"a", "b"});
  std::atomic<int> equal = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back([&] { equal += shared.fingerprint() == print; });
  for (auto& thread : threads) thread.join();
  CHECK(equal == 4);
}

namespace {

/// A file of CIFAR records: record i has the class (first + i) % classes, and pixel k the value (7 i + k) % 256.
std::string cifar_file(Index records, Index first, bool hundred = false) {
  std::string out;
  for (Index i = 0; i < records; ++i) {
    if (hundred) out += static_cast<char>((first + i) % 20);
    out += static_cast<char>((first + i) % (hundred ? 100 : 10));
    for (Index k = 0; k < 3072; ++k) out += static_cast<char>((7 * (first + i) + k) % 256);
  }
  return out;
}

}  // namespace

TEST_CASE("CIFAR is read from its official files") {
  const TemporaryFolder folder;
  for (Index i = 1; i <= 5; ++i)
    folder.write(tl::detail::text("cifar-10-batches-bin/data_batch_", i, ".bin"), cifar_file(3, 3 * i));
  folder.write("cifar-10-batches-bin/test_batch.bin", cifar_file(2, 40));
  const auto [train, test] = Cifar10::open(folder.path);
  CHECK(train.size() == 15);
  CHECK(test.size() == 2);
  CHECK(train.labels().size() == 10);
  CHECK(train.labels()[0] == "airplane");
  CHECK(train.labels()[9] == "truck");
  const Batch last = train.batch(std::vector<Index>{14});
  CHECK(last.pictures[0].sizes() == at::IntArrayRef({1, 3, 32, 32}));
  CHECK(last.target.item<Index>() == 7);
  CHECK(last.pictures[0][0][2][31][30].item<int>() == (7 * 17 + 3070) % 256);
  CHECK(Cifar10::open(folder.path / "cifar-10-batches-bin").test.fingerprint() == test.fingerprint());

  const auto third = folder.path / "cifar-10-batches-bin" / "data_batch_3.bin";
  folder.write("cifar-10-batches-bin/data_batch_3.bin", cifar_file(3, 0).substr(1));
  CHECK(message_of<FormatError>([&] { Cifar10::open(folder.path); }) ==
        tl::detail::text(third,
                         " has 9218 bytes, which is no whole number of records of 3073 bytes (a complete file has "
                         "30730000); unpack the archive again"));
  std::string wrong = cifar_file(3, 0);
  wrong[3073] = 10;
  folder.write("cifar-10-batches-bin/data_batch_3.bin", wrong);
  CHECK_THAT(message_of<FormatError>([&] { Cifar10::open(folder.path); }),
             StartsWith(tl::detail::text(third,
                                         ": byte 3073: record 1 has the label 10, which is out of range: there are "
                                         "10 classes, so labels go from 0 to 9")));
  std::filesystem::remove(third);
  CHECK_THAT(message_of<FileError>([&] { Cifar10::open(folder.path); }), ContainsSubstring("data_batch_3.bin"));
  CHECK(
      message_of<DataError>([&] { Cifar10::open(folder.path / "absent"); }) ==
      tl::detail::text("no data in ", folder.path / "absent",
                       ": neither cifar-10-batches-bin/data_batch_1.bin nor data_batch_1.bin is there; give the folder "
                       "into which the archive of the binary version was unpacked"));

  folder.write("cifar-100-binary/train.bin", cifar_file(4, 97, true));
  folder.write("cifar-100-binary/test.bin", cifar_file(1, 5, true));
  std::string names;
  for (int i = 0; i < 100; ++i) names += tl::detail::text("class", i, "\r\n");
  folder.write("cifar-100-binary/fine_label_names.txt", names + "\n");
  const auto hundred = Cifar100::open(folder.path);
  CHECK(hundred.train.size() == 4);
  CHECK(hundred.train.labels().at(99) == "class99");
  CHECK(at::equal(hundred.train.target(), at::tensor({97, 98, 99, 0}, at::kLong)));
  CHECK(hundred.test.pictures()[0][0][0][1].item<int>() == 7 * 5 + 1);
  folder.write("cifar-100-binary/fine_label_names.txt", "a\nb");
  CHECK_THAT(message_of<FormatError>([&] { Cifar100::open(folder.path); }),
             ContainsSubstring(" has 2 names of classes, one a line, instead of 100"));
}

TEST_CASE("MNIST is read from IDX files") {
  const TemporaryFolder folder;
  const std::string head3("\0\0\x08\3\0\0\0\2\0\0\0\3\0\0\0\4", 16), head1("\0\0\x08\1\0\0\0\2", 8);
  std::string pixels;
  for (int i = 0; i < 24; ++i) pixels += static_cast<char>(i * 10);
  folder.write("train-images-idx3-ubyte", head3 + pixels);
  folder.write("train-labels-idx1-ubyte", head1 + std::string("\x09\0", 2));
  folder.write("t10k-images.idx3-ubyte", head3 + pixels);
  folder.write("t10k-labels.idx1-ubyte", head1 + "\1\2");
  const auto [train, test] = Mnist::open(folder.path);
  CHECK(train.size() == 2);
  CHECK(train.pictures().sizes() == at::IntArrayRef({2, 1, 3, 4}));
  CHECK(train.pictures()[1][0][2][3].item<int>() == 230);
  CHECK(at::equal(train.target(), at::tensor({9, 0}, at::kLong)));
  CHECK(at::equal(test.target(), at::tensor({1, 2}, at::kLong)));
  CHECK(train.labels().at(9) == "9");
  CHECK(FashionMnist::open(folder.path).train.labels().at(9) == "Ankle boot");
  folder.write("train-labels-idx1-ubyte", head1 + std::string("\x0A\0", 2));
  CHECK_THAT(message_of<FormatError>([&] { Mnist::open(folder.path); }),
             ContainsSubstring("label 0 is 10, which is out of range: there are 10 classes, so labels go from 0 to 9"));
  folder.write("train-labels-idx1-ubyte", std::string("\0\0\x08\1\0\0\0\1\0", 9));
  CHECK_THAT(message_of<FormatError>([&] { Mnist::open(folder.path); }), ContainsSubstring(" has 1 labels"));
  folder.write("train-labels-idx1-ubyte", head3 + pixels);
  CHECK_THAT(message_of<FormatError>([&] { Mnist::open(folder.path); }),
             ContainsSubstring("holds an array of 3 dimensions"));
  std::filesystem::remove(folder.path / "train-labels-idx1-ubyte");
  CHECK_THAT(message_of<DataError>([&] { Mnist::open(folder.path); }),
             ContainsSubstring("neither train-labels-idx1-ubyte nor train-labels-idx1-ubyte.gz is there"));
}

TEST_CASE("Debian's Fashion-MNIST, where it is installed") {
  if (!std::filesystem::exists(FashionMnist::debian_folder)) SKIP("the package dataset-fashion-mnist is not installed");
  const auto [train, test] = FashionMnist::open();
  CHECK(train.size() == 60000);
  CHECK(test.size() == 10000);
  CHECK(train.pictures().sizes() == at::IntArrayRef({60000, 1, 28, 28}));
  CHECK(at::equal(at::bincount(train.target(), {}, 10), at::full({10}, 6000, at::kLong)));
  CHECK(test.target()[0].item<Index>() == 9);
}

TEST_CASE("a picture that holds no numbers is refused, whichever it is") {
  Tensor pictures = at::rand({9, 3, 8, 8});
  pictures[6][1][0][7] = std::nanf("");  // outside of what a centre crop keeps
  pictures[8][2][3][1] = -std::numeric_limits<float>::infinity();
  const Preprocessing p{.size = 4, .crop_fraction = 0.5};
  const auto of = [&](Index from, Index to, std::span<const Index> ids = {}) {
    return message_of<DataError>([&] { preprocess({{pictures.slice(0, from, to)}, {}, {}}, p, 3, ids); });
  };
  const std::string rest = "; pictures are numbers in [0, 1]";
  CHECK(of(0, 9) == "picture 6 of the batch holds nan (channel 1, row 0, column 7)" + rest);
  CHECK(of(7, 9) == "picture 1 of the batch holds infinity (channel 2, row 3, column 1)" + rest);
  CHECK(of(5, 7, std::vector<Index>{41, 17}) == "picture 17 holds nan (channel 1, row 0, column 7)" + rest);
  CHECK(at::isfinite(preprocess({{pictures.slice(0, 0, 6)}, {}, {}}, p)).all().item<bool>());
}

TEST_CASE("a folder of class folders is a data set") {
  const TemporaryFolder folder;
  folder.copy("rgb.png", "dog/b.png");
  folder.copy("grey.png", "dog/a.png");
  folder.copy("rgb_444.jpg", "dog/deep/c.jpg");
  folder.copy("exif_6.jpg", "Cat/1.jpg");
  folder.write("dog/.DS_Store", "no picture, and hidden");
  folder.write(".git/config", "no class");
  folder.write("readme.txt", "no class either");
  const ImageFolder data = ImageFolder::open(folder.path);
  CHECK(data.labels() == Labels{"Cat", "dog"});
  REQUIRE(data.size() == 4);
  CHECK(data.path(0) == folder.path / "Cat/1.jpg");
  CHECK(data.path(1) == folder.path / "dog/a.png");
  CHECK(data.path(3) == folder.path / "dog/deep/c.jpg");
  CHECK(data.unreadable().empty());
  const Batch batch = data.batch(std::vector<Index>{1, 2, 3, 0});
  REQUIRE(batch.pictures.size() == 3);  // grey, two colour pictures of one size, one of another
  CHECK(batch.pictures[0].sizes() == at::IntArrayRef({1, 1, 13, 19}));
  CHECK(batch.pictures[1].sizes() == at::IntArrayRef({2, 3, 13, 19}));
  CHECK(batch.pictures[2].sizes() == at::IntArrayRef({1, 3, 12, 7}));  // turned upright
  CHECK(at::equal(batch.target, at::tensor({1, 1, 1, 0}, at::kLong)));
  const Picture picture = read_picture(folder.path / "dog/b.png");
  CHECK(batch.pictures[1][0][2][12][5].item<int>() == picture.pixels[(12 * 19 + 5) * 3 + 2]);
  CHECK(preprocess(batch, {.size = 10}, 3).size(0) == 4);
  CHECK(data.subset(std::vector<Index>{2}).path(0) == data.path(2));
  CHECK(data.subset(2).path(1) == data.path(2));
  CHECK_THROWS_AS(data.batch(std::vector<Index>{4}), DataError);
  CHECK_THROWS_AS(data.subset(5), DataError);

  const std::string print = data.fingerprint();
  CHECK(ImageFolder::open(folder.path).fingerprint() == print);
  CHECK(data.subset(3).fingerprint() != print);
  folder.copy("rgb.png", "dog/a.png");
  CHECK(ImageFolder::open(folder.path).fingerprint() != print);
  folder.copy("grey.png", "dog/a.png");
  std::filesystem::rename(folder.path / "Cat", folder.path / "cat");
  CHECK(ImageFolder::open(folder.path).fingerprint() != print);
  // Gone meanwhile; there is no other of its class, and one of four is more than 1 %.
  CHECK_THAT(message_of<DataError>([&] { data.batch(std::vector<Index>{0}); }),
             StartsWith("1 of 4 files in ") && ContainsSubstring("Cat/1.jpg: No such file or directory"));
}

TEST_CASE("folders that are no data set are refused with what is wrong") {
  const TemporaryFolder folder;
  CHECK(message_of<DataError>([&] { ImageFolder::open(folder.path / "absent"); }) ==
        tl::detail::text("no data: ", folder.path / "absent", " is not a folder; check the path"));
  CHECK(message_of<DataError>([&] { ImageFolder::open(folder.path); }) ==
        tl::detail::text("no data in ", folder.path,
                         ": there is no class folder in it; give each class a folder of its name, with its pictures "
                         "inside"));
  folder.copy("rgb.png", "cat/1.png");
  CHECK(message_of<DataError>([&] { ImageFolder::open(folder.path); }) ==
        tl::detail::text("only one class in ", folder.path,
                         ": \"cat\"; there must be two folders of pictures or more to tell apart"));
  make_folders(folder.path / "dog");
  CHECK(message_of<DataError>([&] { ImageFolder::open(folder.path); }) ==
        tl::detail::text("no pictures in the class folder dog of ", folder.path,
                         "; put some in, or take the folder away"));
  folder.write("dog/a.jpg", "<html>not found</html>");
  CHECK(message_of<DataError>([&] { ImageFolder::open(folder.path); }) ==
        tl::detail::text(
            "1 of 2 files in ", folder.path,
            " can't be read as pictures, more than the 1 % that are let pass: dog/a.jpg is not a JPEG or PNG "
            "picture: it is a file of the format HTML; convert it to JPEG or PNG, or take it away"));
  CHECK(
      message_of<DataError>([&] { ImageFolder::open(folder.path, {.most_unreadable = 0.5}); }) ==
      tl::detail::text("no picture of the class \"dog\" in ", folder.path,
                       " can be read: dog/a.jpg is not a JPEG or PNG picture: it is a file of the format HTML; convert "
                       "it to JPEG or PNG, or take it away"));
  const std::string jpeg = read_file(data_folder / "pictures/rgb_420.jpg");
  folder.write("dog/a.jpg", jpeg.substr(0, jpeg.size() - 50));
  CHECK(message_of<DataError>([&] { ImageFolder::open(folder.path).batch(std::vector<Index>{1}); }) ==
        tl::detail::text("1 of 2 files in ", folder.path,
                         " can't be read as pictures, more than the 1 % that are let pass: dog/a.jpg: the JPEG file is "
                         "damaged or cut: Premature end of JPEG file"));
  CHECK(message_of<OptionError>([&] { ImageFolder::open(folder.path, {.most_unreadable = 2}); }) ==
        "most_unreadable must lie in [0, 1], not 2");
}

TEST_CASE("a few unreadable pictures are left out, counted and listed") {
  const TemporaryFolder folder;
  const std::string png = read_file(data_folder / "pictures/one_pixel.png");
  for (int i = 0; i < 100; ++i) folder.write(tl::detail::text(i % 2 == 0 ? "a/" : "b/", 100 + i, ".png"), png);
  folder.write("a/broken.png", png.substr(0, 40));
  const ImageFolder data = ImageFolder::open(folder.path);
  CHECK(data.size() == 100);
  REQUIRE(data.unreadable().size() == 1);
  CHECK(data.unreadable()[0].path == folder.path / "a/broken.png");
  CHECK_THAT(data.unreadable()[0].reason, StartsWith("a/broken.png: the PNG file is damaged or cut near byte "));
  folder.write("b/second.png", "");
  CHECK_THAT(message_of<DataError>([&] { ImageFolder::open(folder.path); }),
             StartsWith("2 of 102 files in ") && ContainsSubstring(", b/second.png is empty: it has no bytes"));
  CHECK(ImageFolder::open(folder.path, {.most_unreadable = 0.02}).unreadable().size() == 2);
}

TEST_CASE("a picture that turns out to be damaged is stood in for, counted and listed") {
  const TemporaryFolder folder;
  const std::string png = read_file(data_folder / "pictures/rgb.png"), cut = png.substr(0, png.size() - 20);
  const std::string other = read_file(data_folder / "pictures/rgb_444.jpg");
  for (int i = 0; i < 100; ++i) folder.write(tl::detail::text(i % 2 == 0 ? "a/" : "b/", 100 + i, ".png"), png);
  folder.write("a/120.png", cut);
  folder.write("a/122.png", other);
  const ImageFolder data = ImageFolder::open(folder.path);
  CHECK(data.size() == 100);
  CHECK(data.unreadable().empty());  // its header is one
  const std::string print = data.fingerprint();
  const auto all = [&] {
    std::vector<Index> ids;
    for (Index i = 0; i < 100; ++i) ids.push_back(i);
    return data.batch(ids);
  };
  const Batch batch = all();
  CHECK(batch.size() == 100);
  CHECK(data.path(10) == folder.path / "a/120.png");
  CHECK(at::equal(data.batch(std::vector<Index>{10}).pictures[0], data.batch(std::vector<Index>{11}).pictures[0]));
  CHECK_FALSE(at::equal(data.batch(std::vector<Index>{10}).pictures[0], data.batch(std::vector<Index>{9}).pictures[0]));
  CHECK(data.fingerprint() == print);
  REQUIRE(data.unreadable().size() == 1);
  CHECK(data.unreadable()[0].path == folder.path / "a/120.png");
  CHECK(data.unreadable()[0].reason ==
        "a/120.png: the PNG file is damaged or cut near byte 41: the file ends too early");
  // A set never borrows from another: its last picture of the class takes the first one.
  const ImageFolder part = data.subset(std::vector<Index>{8, 60, 10});
  CHECK(at::equal(part.batch(std::vector<Index>{2}).pictures[0], part.batch(std::vector<Index>{0}).pictures[0]));
  CHECK(message_of<DataError>([&] {
          data.subset(std::vector<Index>{10, 60}).batch(std::vector<Index>{0});
        }) == tl::detail::text("no picture of the class \"a\" in ", folder.path,
                               " can be read: ", data.unreadable()[0].reason));
  // One more is too many.
  folder.write("b/131.png", cut);
  const std::string refused = message_of<DataError>(all);
  REQUIRE(data.unreadable().size() == 2);
  CHECK(refused == tl::detail::text("2 of 100 files in ", folder.path,
                                    " can't be read as pictures, more than the 1 % that are let pass: ",
                                    data.unreadable()[0].reason, ", ", data.unreadable()[1].reason));
}

TEST_CASE("a folder is divided as it lies, or by chance") {
  const TemporaryFolder folder;
  const std::string png = read_file(data_folder / "pictures/one_pixel.png");
  for (int i = 0; i < 10; ++i) folder.write(tl::detail::text("all/a/", i, ".png"), png);
  for (int i = 0; i < 20; ++i) folder.write(tl::detail::text("all/b/", i, ".png"), png);
  folder.write("all/c/only.png", png);
  folder.write("all/d/1.png", png);
  folder.write("all/d/2.png", png);
  const auto names = [](const ImageFolder& data) {
    std::set<std::string> out;
    for (Index i = 0; i < data.size(); ++i) out.insert(data.path(i).string());
    return out;
  };
  const auto [train, val] = ImageFolder::split(folder.path / "all", {.val_fraction = 0.3, .seed = 7});
  CHECK(train.size() == 7 + 14 + 1 + 1);
  CHECK(val.size() == 3 + 6 + 0 + 1);
  CHECK(train.labels() == val.labels());
  auto both = names(train);
  both.merge(names(val));
  CHECK(both.size() == 33);
  CHECK(names(ImageFolder::split(folder.path / "all", {.val_fraction = 0.3, .seed = 7}).test) == names(val));
  CHECK(names(ImageFolder::split(folder.path / "all", {.val_fraction = 0.3, .seed = 8}).test) != names(val));
  CHECK(train.fingerprint() != val.fingerprint());
  for (const double bad : {0.0, 1.0, -0.5})
    CHECK_THAT(message_of<OptionError>([&] { ImageFolder::split(folder.path / "all", {.val_fraction = bad}); }),
               StartsWith("val_fraction must lie between 0 and 1, not "));

  // `train` alone is divided; with another beside it, each is taken as it is.
  folder.write("given/train/a/1.png", png);
  folder.write("given/train/b/1.png", png);
  CHECK_THAT(message_of<DataError>([&] { ImageFolder::split(folder.path / "given"); }),
             ContainsSubstring("has two pictures, so none can be kept for validation"));
  folder.write("given/train/b/2.png", png);
  CHECK(ImageFolder::split(folder.path / "given").test.size() == 1);
  folder.write("given/test/a/5.png", png);
  folder.write("given/test/b/6.png", png);
  CHECK(names(ImageFolder::split(folder.path / "given").test).count((folder.path / "given/test/b/6.png").string()) ==
        1);
  folder.write("given/valid/a/7.png", png);
  folder.write("given/valid/c/8.png", png);
  CHECK(message_of<DataError>([&] { ImageFolder::split(folder.path / "given"); }) ==
        tl::detail::text("the classes of ", folder.path / "given/train", " and ", folder.path / "given/valid",
                         " differ: only train has b; only valid has c; both need the same folders"));
}

TEST_CASE("the view of a picture is drawn from seed, epoch and index alone, evenly") {
  std::array<int, 4> count{};
  int changed = 0;
  for (Index i = 0; i < 4000; ++i) {
    const Index view = draw_view(4, 5, 2, i);
    CHECK(view == draw_view(4, 5, 2, i));
    ++count.at(static_cast<std::size_t>(view));
    changed += view != draw_view(4, 5, 3, i);
  }
  for (int n : count) CHECK(std::abs(n - 1000) < 120);
  CHECK(std::abs(changed - 3000) < 120);
  CHECK(draw_view(1, 5, 2, 3) == 0);
}

TEST_CASE("flips: view 0 is the picture, each view another") {
  const Tensor x = pictures_of(8, 3, 5, 6);
  std::vector<Draw> draws = draws_of(8);
  for (std::size_t i = 0; i < 8; ++i) draws[i].view = static_cast<Index>(i % 4);
  const Tensor both = transformed(Flip{.up_down = true}, one(x), draws).pictures[0];
  for (Index i = 0; i < 8; ++i) {
    INFO(i);
    const Tensor want = i % 4 == 0   ? x[i]
                        : i % 4 == 1 ? x[i].flip({2})
                        : i % 4 == 2 ? x[i].flip({1})
                                     : x[i].flip({1, 2});
    CHECK(at::equal(both[i], want));
  }
  for (std::size_t i = 0; i < 8; ++i) draws[i].view = static_cast<Index>(i % 2);
  const Tensor down = transformed(Flip{.left_right = false, .up_down = true}, one(x), draws).pictures[0];
  CHECK(at::equal(down[1], x[1].flip({1})));
  CHECK(at::equal(down[2], x[2]));
  CHECK(at::equal(x, pictures_of(8, 3, 5, 6)));  // the data set's own tensor is left alone
  CHECK(Flip{}.views() == 2);
  CHECK(Flip{.up_down = true}.views() == 4);
  CHECK(Flip{.left_right = false}.views() == 1);
  CHECK(at::equal(transformed(Flip{.left_right = false}, one(x), draws).pictures[0], x));
  CHECK(Flip{}.description() != Flip{.left_right = false, .up_down = true}.description());
  CHECK(message_of<DataError>([&] { transformed(Flip{}, one(x), draws_of(7)); }) ==
        "a transform needs one draw a picture: there are 8 pictures and 7 draws");
}

TEST_CASE("colours change as torchvision's") {
  std::size_t cases = 0;
  const auto change = [](const std::string& what, auto* data, Index channels, double factor) {
    const tl::detail::Planes<std::remove_pointer_t<decltype(data)>> p{data, channels, 99};
    if (what == "brightness") tl::detail::adjust_brightness(p, factor);
    if (what == "contrast") tl::detail::adjust_contrast(p, factor);
    if (what == "saturation") tl::detail::adjust_saturation(p, factor);
    if (what == "hue") tl::detail::adjust_hue(p, factor);
  };
  for (const auto& [key, want] : peer()) {
    const auto words = words_of(key);
    if (words[0] != "colour") continue;
    INFO(key);
    ++cases;
    const double factor = std::stod(words[3]);
    if (words[2] == "f32") {
      Tensor x = formula(3, 9, 11, 3).to(at::kFloat) / 255.0;
      change(words[1], x.mutable_data_ptr<float>(), 3, factor);
      CHECK(difference(x[0], want) <= 2e-6);
    } else {
      const Index channels = words[2] == "grey" ? 1 : 3;
      Tensor x = formula(channels, 9, 11, 3);
      change(words[1], x.mutable_data_ptr<std::uint8_t>(), channels, factor);
      CHECK(difference(x[0], want) <= 1.0);
      // Where the fraction is cut off, one rounding of float32 is one step; that must be rare.
      CHECK((x[0] != want).sum().item<Index>() <= x.numel() / 20);
    }
  }
  CHECK(cases == 19);
}

TEST_CASE("colour jitter: each strength its own range, the order by chance, grey stays grey") {
  const Tensor x = pictures_of(40, 3, 6, 7);
  const auto draws = draws_of(40);
  const ColourJitter all{.brightness = .4, .contrast = .4, .saturation = .4, .hue = .1};
  const Tensor got = transformed(all, one(x), draws).pictures[0];
  CHECK(!at::equal(got, x));
  // The same, one by one, in another order, with a gap between.
  for (Index i : {39, 0, 17})
    CHECK(at::equal(transformed(all, one(x.narrow(0, i, 1)), {draws[static_cast<std::size_t>(i)]}).pictures[0][0],
                    got[i]));
  CHECK(!at::equal(transformed(all, one(x), draws_of(40, 1)).pictures[0], got));
  CHECK(!at::equal(transformed(all, one(x), draws_of(40, 0, 2)).pictures[0], got));
  CHECK(at::equal(transformed(ColourJitter{}, one(x), draws).pictures[0], x));
  // Brightness alone: factors spread over [0.6, 1.4].
  const Tensor flat = at::full({4000, 1, 1, 1}, 0.5F);
  const Tensor bright = transformed(ColourJitter{.brightness = .4}, one(flat), draws_of(4000)).pictures[0] / 0.5;
  CHECK(bright.min().item<double>() >= 0.6 - 1e-6);
  CHECK(bright.max().item<double>() <= 1.4 + 1e-6);
  CHECK(std::abs(bright.mean().item<double>() - 1.0) < 0.02);
  CHECK(std::abs(bright.std().item<double>() - 0.8 / std::sqrt(12.0)) < 0.01);
  CHECK(message_of<OptionError>([&] { transformed(ColourJitter{.hue = .6}, one(x), draws); }) ==
        "hue must be at most 0.5 of the circle, not 0.6");
  CHECK(message_of<OptionError>([&] { transformed(ColourJitter{.contrast = -1}, one(x), draws); }) ==
        "the strengths of a colour jitter must not be negative; one is -1");
  CHECK(message_of<DataError>([&] { transformed(all, one(formula(4, 3, 3)), draws_of(1)); }) ==
        "colours can be changed in pictures of 1 or 3 channels, not 4");
}

TEST_CASE("random crops follow torchvision's law") {
  std::size_t cases = 0;
  for (const auto& [key, want] : peer()) {
    const auto words = words_of(key);
    if (words[0] != "crop") continue;
    INFO(key);
    ++cases;
    const auto size = size_of_key(words[1]);
    const auto scale = words_of(words[2], '-'), ratio = words_of(words[3], '-');
    constexpr Index n = 20000;
    std::array<double, 4> sum{}, squares{};
    for (Index i = 0; i < n; ++i) {
      Random random = tl::detail::augmentation({3, 0, i});
      const auto c = tl::detail::random_crop(random, size[0], size[1], {std::stod(scale[0]), std::stod(scale[1])},
                                             {std::stod(ratio[0]), std::stod(ratio[1])});
      if (c.top < 0 || c.left < 0 || c.height < 1 || c.width < 1 || c.top + c.height > size[0] ||
          c.left + c.width > size[1])
        FAIL("a crop outside of the picture");
      const std::array<Index, 4> values{c.top, c.left, c.height, c.width};
      for (std::size_t k = 0; k < 4; ++k) {
        sum[k] += static_cast<double>(values[k]);
        squares[k] += static_cast<double>(values[k] * values[k]);
      }
    }
    for (std::size_t k = 0; k < 4; ++k) {
      const auto j = static_cast<Index>(k);
      const double mean = sum[k] / n, deviation = std::sqrt(std::max(squares[k] / n - mean * mean, 0.0));
      const double wanted = want[1][j].item<double>(), error = wanted / std::sqrt(static_cast<double>(n));
      CHECK(std::abs(mean - want[0][j].item<double>()) <= 6 * error + 1e-9);  // of the difference: 4.2 deviations
      CHECK(std::abs(deviation - wanted) <= 6 * error + 1e-9);
    }
  }
  CHECK(cases == 4);
}

TEST_CASE("a random resized crop is cut, then scaled as `resize` does") {
  Batch batch;
  batch.pictures = {pictures_of(3, 3, 20, 31), pictures_of(2, 3, 40, 25)};
  const RandomResizedCrop crop{.size = 12};
  const auto draws = draws_of(5, 2);
  const Batch got = transformed(crop, batch, draws);
  REQUIRE(got.pictures.size() == 1);
  CHECK(got.pictures[0].sizes() == at::IntArrayRef({5, 3, 12, 12}));
  Index at = 0;
  for (const Tensor& block : batch.pictures)
    for (Index i = 0; i < block.size(0); ++i, ++at) {
      Random random = tl::detail::augmentation(draws[static_cast<std::size_t>(at)]);
      const auto c = tl::detail::random_crop(random, block.size(2), block.size(3), crop.scale, crop.ratio);
      const Tensor part = block.narrow(0, i, 1).narrow(2, c.top, c.height).narrow(3, c.left, c.width);
      CHECK(at::equal(resize(part.contiguous(at::MemoryFormat::ChannelsLast), 12, 12)[0], got.pictures[0][at]));
    }
  CHECK(!crop.views().has_value());
  CHECK_THAT(message_of<OptionError>([&] {
               transformed(RandomResizedCrop{.scale = {0, 1}}, batch, draws);
             }),
             StartsWith("scale must be an interval {low, high} above 0, not {0, 1}"));
  CHECK_THAT(message_of<OptionError>([&] {
               transformed(RandomResizedCrop{.ratio = {2, 1}}, batch, draws);
             }),
             StartsWith("ratio must be an interval"));
  CHECK_THAT(message_of<OptionError>([&] { transformed(RandomResizedCrop{.size = 0}, batch, draws); }),
             StartsWith("a crop must have at least 1 pixel a side"));
}

TEST_CASE("centre crop and resize") {
  const Tensor x = formula(3, 7, 10);
  CHECK(at::equal(transformed(CentreCrop{4}, one(x), draws_of(1)).pictures[0], x.narrow(2, 2, 4).narrow(3, 3, 4)));
  const Tensor wide = transformed(CentreCrop{9}, one(x), draws_of(1)).pictures[0];
  CHECK(at::equal(wide.narrow(2, 1, 7), x.narrow(3, 0, 9)));
  CHECK(wide[0][1][0].sum().item<int>() == 0);
  CHECK(wide[0][1][8].sum().item<int>() == 0);
  const Tensor scaled = transformed(Resize{14}, one(x), draws_of(1)).pictures[0];
  CHECK(at::equal(scaled, resize(x, 14, 20)));
  Batch two;
  two.pictures = {formula(3, 7, 10), formula(3, 12, 12)};
  CHECK(transformed(CentreCrop{5}, two, draws_of(2)).pictures.size() == 1);
  CHECK(transformed(Resize{5}, two, draws_of(2)).pictures.size() == 2);
  CHECK_THROWS_AS(transformed(CentreCrop{0}, one(x), draws_of(1)), OptionError);
  CHECK_THROWS_AS(transformed(Resize{0}, one(x), draws_of(1)), OptionError);
}

namespace {

/// A user's transform, without a description: adds what it was given as a view to every pixel.
struct AddView {
  Index many = 3;
  std::optional<Index> views() const { return many; }
  void operator()(Batch& batch, std::span<const Draw> draws, ClassIndex) const {
    for (Tensor& block : batch.pictures)
      for (Index i = 0; i < block.size(0); ++i)
        block[i] += static_cast<std::int64_t>(draws[static_cast<std::size_t>(i)].view);
  }
};

}  // namespace

TEST_CASE("compositions: finite views multiply, each part draws its own") {
  const auto finite = compose(Flip{}, AddView{3});
  CHECK(finite.views() == 6);
  const Tensor x = formula(3, 4, 5) / 2;
  std::set<std::pair<bool, int>> seen;
  for (Index view = 0; view < 6; ++view) {
    const Tensor got = transformed(finite, one(x.clone()), draws_of(1, view)).pictures[0];
    for (int added = 0; added < 3; ++added)
      for (const bool flipped : {false, true})
        if (at::equal(got, (flipped ? x.flip({3}) : x) + added)) seen.emplace(flipped, added);
  }
  CHECK(seen.size() == 6);
  CHECK(finite.description().empty());
  CHECK(compose(Flip{}, CentreCrop{3}).description() == "flip lr; centre crop 3");

  const auto mixed = compose(Flip{}, ColourJitter{.brightness = .5}, ColourJitter{.brightness = .5});
  CHECK(!mixed.views().has_value());
  int flipped = 0;
  std::set<double> factors;
  Tensor flat = at::full({1, 1, 1, 2}, 0.2F);
  flat[0][0][0][1] = 0.4F;
  for (Index i = 0; i < 400; ++i) {
    const Tensor got = transformed(mixed, one(flat.clone()), draws_of(1, 0, 1, i)).pictures[0].flatten();
    flipped += (got[0] > got[1]).item<bool>();
    factors.insert(got.max().item<double>());
  }
  CHECK(std::abs(flipped - 200) < 50);
  // Were both jitters drawn alike, the product would be a square: 1.5 * 0.5 would never come.
  CHECK(factors.size() > 390);
  int mixed_signs = 0;
  for (Index i = 0; i < 400; ++i) {
    Random a = tl::detail::augmentation({tl::detail::part_seed(1, 1), 0, i}),
           b = tl::detail::augmentation({tl::detail::part_seed(1, 2), 0, i});
    mixed_signs += (a.uniform() < 0.5) != (b.uniform() < 0.5);
  }
  CHECK(std::abs(mixed_signs - 200) < 50);

  const AnyTransform<ClassIndex> any = mixed;
  CHECK(!any.views().has_value());
  CHECK(any.description() == mixed.description());
  CHECK(at::equal(transformed(any, one(x), draws_of(1)).pictures[0],
                  transformed(mixed, one(x), draws_of(1)).pictures[0]));
  CHECK(AnyTransform<ClassIndex>().views() == 1);
  CHECK(AnyTransform<ClassIndex>(finite).views() == 6);
  CHECK(at::equal(transformed(NoTransform{}, one(x), draws_of(1)).pictures[0], x));
  CHECK(Compose{Flip{}, CentreCrop{3}}.views() == 2);
}

TEST_CASE("what an augmentation does to a picture depends on seed, view and index alone") {
  const auto all = compose(RandomResizedCrop{.size = 9}, Flip{.up_down = true}, ColourJitter{.3, .3, .3, .1});
  const Tensor x = pictures_of(12, 3, 14, 17);
  const Tensor got = transformed(all, one(x), draws_of(12, 4)).pictures[0];
  for (Index i = 0; i < 12; ++i)
    CHECK(at::equal(transformed(all, one(x.narrow(0, i, 1)), draws_of(1, 4, 1, i)).pictures[0][0], got[i]));
  const int threads = at::get_num_threads();
  at::set_num_threads(threads == 1 ? 3 : 1);
  CHECK(at::equal(transformed(all, one(x), draws_of(12, 4)).pictures[0], got));
  at::set_num_threads(threads);
}

TEST_CASE("work is spread over as many threads as LibTorch has, each of which computes alone") {
  const int threads = at::get_num_threads();
  for (const int n : {1, 3}) {
    at::set_num_threads(n);
    std::mutex mutex;
    std::set<std::thread::id> seen;
    std::vector<int> calls(100);
    std::atomic<int> with_team = 0;
    tl::detail::for_each_in_parallel(100, [&](Index i) {
      if (at::get_num_threads() != 1) ++with_team;
      tl::detail::for_each_in_parallel(2, [&](Index) { ++calls[static_cast<std::size_t>(i)]; });
      const std::lock_guard lock(mutex);
      seen.insert(std::this_thread::get_id());
      // The others are waited for, so that the first can't do it all.
      if (i == 0 && n > 1) {
        mutex.unlock();
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        mutex.lock();
      }
    });
    CHECK(calls == std::vector<int>(100, 2));
    CHECK(with_team == 0);
    CHECK((n == 1 ? seen.size() == 1 : seen.size() > 1));
    CHECK(at::get_num_threads() == n);
    CHECK(message_of<DataError>([&] {
            tl::detail::for_each_in_parallel(100, [](Index i) {
              if (i == 70) throw DataError("the seventieth");
            });
          }) == "the seventieth");
    CHECK(at::get_num_threads() == n);
    // Threads to come are not touched either.
    int other = 0;
    {
      const tl::detail::OneThread alone;
      CHECK(at::get_num_threads() == 1);
      std::thread([&] { other = at::get_num_threads(); }).join();
    }
    CHECK(other == n);
  }
  at::set_num_threads(threads);
}

TEST_CASE("a loader delivers in order, the same with any number of workers") {
  const TensorData<ClassIndex> data(pictures_of(50, 3, 12, 12), at::zeros({50}, at::kLong), {"a"});
  const auto transform = compose(Flip{}, ColourJitter{.2, .2});
  const auto prepare = [&](Index number) {
    std::vector<Index> ids;
    for (Index i = number * 7; i < std::min<Index>(number * 7 + 7, 50); ++i) ids.push_back(i);
    Batch batch = data.batch(ids);
    transform(batch, draws_of(batch.size(), 0, 1, ids.front()), ClassIndex{});
    batch.pictures = {preprocess(batch, {.size = 16}, 3)};
    return batch;
  };
  std::vector<Tensor> wanted;
  for (const Index workers : {0, 1, 3, 20}) {
    INFO(workers);
    Loader loader(8, prepare, {.workers = workers});
    CHECK(loader.size() == 8);
    Index number = 0;
    while (const auto batch = loader.next()) {
      if (workers == 0)
        wanted.push_back(batch->pictures[0]);
      else
        CHECK(at::equal(batch->pictures[0], wanted.at(static_cast<std::size_t>(number))));
      ++number;
    }
    CHECK(number == 8);
    CHECK(!loader.next().has_value());
  }
  CHECK(!Loader(0, prepare, {.workers = 2}).next().has_value());
}

TEST_CASE("a loader's queue is bounded, and it can be left early") {
  std::atomic<Index> prepared = 0;
  const auto prepare = [&](Index) {
    ++prepared;
    return Batch{};
  };
  {
    Loader loader(1000, prepare, {.workers = 2, .ahead = 3});
    for (int i = 0; i < 5; ++i) CHECK(loader.next().has_value());
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    CHECK(prepared <= 5 + 2 * 3);
    CHECK(prepared >= 5);
  }
  CHECK(prepared <= 5 + 2 * 3);
}

TEST_CASE("a loader that is told to drain begins nothing ahead, and delivers what it is asked for") {
  for (const Index workers : {0, 1, 3}) {
    INFO(workers);
    std::stop_source source;
    std::atomic<Index> begun = 0;
    const auto count = [&](Index number) {
      ++begun;
      return Batch{{at::full({1}, number)}, {}, {}};
    };
    Loader loader(40, count, {.workers = workers, .drain = source.get_token()});
    CHECK(loader.next().has_value());
    source.request_stop();
    // What they had decided to begin by then: two batches a worker behind the one that was delivered.
    const Index ahead = 1 + 2 * workers;
    for (Index number = 1; number < 40; ++number) {
      const auto batch = loader.next();
      REQUIRE(batch.has_value());
      CHECK(batch->pictures[0].item<Index>() == number);
      if (number % 8 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(10));  // time to do too much
      CHECK(begun <= std::max(ahead, number + 1));
    }
    CHECK(!loader.next().has_value());
  }
}

TEST_CASE("a loader passes on what goes wrong, where it goes wrong, and stops when it is told") {
  for (const Index workers : {0, 1, 3}) {
    INFO(workers);
    const auto broken = [](Index number) -> Batch {
      if (number == 4) throw FormatError("picture 4 is broken");
      if (number == 6) throw std::logic_error("never reached");
      return Batch{};
    };
    Loader loader(10, broken, {.workers = workers});
    for (int i = 0; i < 4; ++i) CHECK(loader.next().has_value());
    CHECK(message_of<FormatError>([&] { loader.next(); }) == "picture 4 is broken");
    if (workers > 0) CHECK(!loader.next().has_value());
    // LibTorch's exceptions become the library's.
    Loader torch(1, [](Index) { return Batch{{at::zeros({2}).view({3})}, {}, {}}; }, {.workers = workers});
    CHECK_THAT(message_of<Error>([&] { torch.next(); }), StartsWith("loading pictures: LibTorch refused: "));

    std::stop_source source;
    Loader stopped(1000, [](Index) { return Batch{}; }, {.workers = workers, .stop = source.get_token()});
    CHECK(stopped.next().has_value());
    source.request_stop();
    CHECK(message_of<Stopped>([&] { stopped.next(); }) == "stopped while loading pictures, as asked");
  }
  // Told while it waits for a slow batch.
  std::stop_source source;
  std::atomic<bool> release = false;
  Loader slow(3,
              [&](Index) {
                while (!release) std::this_thread::sleep_for(std::chrono::milliseconds(1));
                return Batch{};
              },
              {.workers = 1, .stop = source.get_token()});
  std::thread teller([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    source.request_stop();
  });
  CHECK_THROWS_AS(slow.next(), Stopped);
  release = true;
  teller.join();

  const auto nothing = [](Index) { return Batch{}; };
  CHECK(message_of<OptionError>([&] { Loader(-1, nothing); }) == "a loader can't have -1 batches");
  CHECK(message_of<OptionError>([&] { Loader(1, nothing, {.workers = -2}); }) ==
        "a loader's workers must be 0 to 1024, not -2");
  CHECK(message_of<OptionError>([&] { Loader(1, nothing, {.ahead = 0}); }) == "ahead must be at least 1, not 0");
}
