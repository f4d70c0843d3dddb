// links: no torch
// Checkpoints: what Python wrote is read, what we write is equal, and what is damaged, foreign or hostile gives its
// sentence.
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <malloc.h>
#include <unistd.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <transferlib/formats/checkpoint.hpp>

using namespace transferlib;
using namespace std::string_literals;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::StartsWith;

// Counts what lives on the heap, so that a parser's appetite can be measured.
namespace {
std::atomic<std::size_t> live{0}, peak{0};
}  // namespace

void* operator new(std::size_t size) {
  void* p = std::malloc(size);
  if (p == nullptr) throw std::bad_alloc();
  const std::size_t now = live += ::malloc_usable_size(p);
  if (now > peak) peak = now;
  return p;
}
void operator delete(void* p) noexcept {
  live -= ::malloc_usable_size(p);
  std::free(p);
}
void operator delete(void* p, std::size_t) noexcept { ::operator delete(p); }

namespace {

const std::filesystem::path folder =
    std::filesystem::path(__FILE__).parent_path().parent_path() / "data" / "checkpoints";

std::span<const std::byte> as_bytes(std::string_view s) { return std::as_bytes(std::span(s.data(), s.size())); }

std::string message(const std::function<void()>& act) {
  try {
    act();
  } catch (const FormatError& e) {
    return e.what();
  }
  return "no error";
}
std::string message_of(std::string_view bytes, const CheckpointOptions& options = {}) {
  return message([&] { parse_checkpoint(as_bytes(bytes), "f", options); });
}

/// A folder for one test, gone at its end.
struct Scratch {
  std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("transferlib_formats_" + std::to_string(::getpid()));
  Scratch() { std::filesystem::create_directories(path); }
  ~Scratch() { std::filesystem::remove_all(path); }
};

/// All numbers of a tensor as doubles; a complex number's real part.
std::vector<double> numbers(const TensorView& t) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(t.numel() * size_of(t.dtype)));
  copy_contiguous(t, bytes);
  const auto width = static_cast<std::size_t>(size_of(t.dtype));
  std::vector<double> out;
  for (std::size_t at = 0; at < bytes.size(); at += width) {
    const auto get = [&]<class N>(N n) {
      std::memcpy(&n, bytes.data() + at, sizeof n);
      return static_cast<double>(n);
    };
    // Sign, exponent and mantissa of a small type, without its infinities.
    const auto small = [&](unsigned bits, int exponent_bits, int mantissa_bits, int bias) {
      const unsigned mantissa = bits & ((1U << mantissa_bits) - 1U),
                     exponent = (bits >> mantissa_bits) & ((1U << exponent_bits) - 1U);
      const double sign = (bits >> (exponent_bits + mantissa_bits)) != 0 ? -1.0 : 1.0;
      return sign * std::ldexp((exponent == 0 ? 0.0 : 1.0) + std::ldexp(mantissa, -mantissa_bits),
                               (exponent == 0 ? 1 : static_cast<int>(exponent)) - bias);
    };
    const auto byte = static_cast<unsigned>(bytes[at]);
    switch (t.dtype) {
      case DType::f64:
      case DType::c128:
        out.push_back(get(double{}));
        break;
      case DType::f32:
      case DType::c64:
        out.push_back(get(float{}));
        break;
      case DType::f16:
        out.push_back(small(static_cast<unsigned>(get(std::uint16_t{})), 5, 10, 15));
        break;
      case DType::bf16:
        out.push_back(small(static_cast<unsigned>(get(std::uint16_t{})), 8, 7, 127));
        break;
      case DType::i64:
        out.push_back(get(std::int64_t{}));
        break;
      case DType::i32:
        out.push_back(get(std::int32_t{}));
        break;
      case DType::i16:
        out.push_back(get(std::int16_t{}));
        break;
      case DType::i8:
        out.push_back(get(std::int8_t{}));
        break;
      case DType::u64:
        out.push_back(get(std::uint64_t{}));
        break;
      case DType::u32:
        out.push_back(get(std::uint32_t{}));
        break;
      case DType::u16:
        out.push_back(get(std::uint16_t{}));
        break;
      case DType::u8:
      case DType::boolean:
        out.push_back(byte);
        break;
      case DType::f8_e4m3:
        out.push_back(small(byte, 4, 3, 7));
        break;
      case DType::f8_e5m2:
        out.push_back(small(byte, 5, 2, 15));
        break;
      case DType::f8_e4m3fnuz:
        out.push_back(small(byte, 4, 3, 8));
        break;
      case DType::f8_e5m2fnuz:
        out.push_back(small(byte, 5, 2, 16));
        break;
      case DType::f8_e8m0:
        out.push_back(std::ldexp(1.0, static_cast<int>(byte) - 127));
        break;
    }
  }
  return out;
}

/// The formula of tests/parity/make_checkpoints.py.
std::vector<double> formula(std::size_t n, DType type = DType::f32) {
  std::vector<double> out;
  for (std::size_t i = 0; i < n; ++i)
    out.push_back(type == DType::boolean   ? (i % 2 == 0 ? 1.0 : 0.0)
                  : type == DType::f8_e8m0 ? std::ldexp(1.0, static_cast<int>(i % 8))
                                           : static_cast<double>(i + 1));
  return out;
}

using Shape = std::vector<std::int64_t>;

/// A tensor over `values`, which must outlive it.
template <class N>
TensorView view_of(std::string name, DType dtype, Shape shape, const std::vector<N>& values, std::size_t id = 0) {
  TensorView t;
  t.name = std::move(name);
  t.dtype = dtype;
  t.strides = detail::contiguous_strides(shape);
  t.shape = std::move(shape);
  t.storage = std::as_bytes(std::span(values));
  t.storage_id = id;
  return t;
}

std::string le(std::uint64_t n, std::size_t bytes) { return {reinterpret_cast<const char*>(&n), bytes}; }
std::string safetensors(std::string header, std::string_view data = {}) {
  return le(header.size(), 8) + header + std::string(data);
}

std::string zip(const std::vector<std::pair<std::string, std::string>>& entries) {
  const Scratch scratch;
  {
    AtomicFile file(scratch.path / "z");
    ZipWriter writer(file);
    for (const auto& [name, bytes] : entries) writer.add(name, std::string_view(bytes));
    writer.finish();
    file.commit();
  }
  return read_file(scratch.path / "z");
}

// Pieces of pickles. A string's length is a byte.
std::string str(std::string_view s) { return "\x8c" + std::string(1, static_cast<char>(s.size())) + std::string(s); }
std::string number(int n) { return "K" + std::string(1, static_cast<char>(n)); }
std::string global(std::string_view module, std::string_view name) {
  return "c" + std::string(module) + "\n" + std::string(name) + "\n";
}
std::string storage(std::string_view key, int count, std::string_view type = "FloatStorage",
                    const std::string& view = "") {
  return "(" + str("storage") + global("torch", type) + str(key) + str("cpu") + number(count) + view + "tQ";
}
std::string tensor(const std::string& on, int offset = 0, const std::string& shape = "K\2\x85",
                   const std::string& strides = "K\1\x85", const std::string& rest = "\x89}") {
  return global("torch._utils", "_rebuild_tensor_v2") + "(" + on + number(offset) + shape + strides + rest + "tR";
}
std::string dictionary(const std::string& items) { return "\x80\2}(" + items + "u."; }

/// A zip checkpoint of a pickle and one storage "0" of 8 bytes.
std::string pth(const std::string& pickle, const std::string& order = "little") {
  return zip({{"a/data.pkl", pickle}, {"a/byteorder", order}, {"a/data/0", "\0\0\x80?\0\0\0@"s}, {"a/version", "3\n"}});
}
const std::string legacy_head = "\x80\2\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\2M\xe9\3."s;
const std::string legacy_system = "\x80\2}" + str("little_endian") + "\x88s.";

std::string pickle_message(const std::string& bytes) {
  return message([&] { Pickle::parse(as_bytes(bytes), "f"); });
}

}  // namespace

TEST_CASE("every type has its size and its names") {
  const std::pair<DType, std::int64_t> sizes[] = {
      {DType::f64, 8},     {DType::f32, 4},     {DType::f16, 2},         {DType::bf16, 2},        {DType::i64, 8},
      {DType::i32, 4},     {DType::i16, 2},     {DType::i8, 1},          {DType::u64, 8},         {DType::u32, 4},
      {DType::u16, 2},     {DType::u8, 1},      {DType::boolean, 1},     {DType::c64, 8},         {DType::c128, 16},
      {DType::f8_e4m3, 1}, {DType::f8_e5m2, 1}, {DType::f8_e4m3fnuz, 1}, {DType::f8_e5m2fnuz, 1}, {DType::f8_e8m0, 1}};
  CHECK(std::size(sizes) == std::size(detail::dtype_table));
  for (const auto& [type, size] : sizes) {
    CHECK(size_of(type) == size);
    CHECK(detail::dtype_row(type).type == type);
  }
  CHECK(to_string(DType::f8_e8m0) == "float8_e8m0fnu");
}

TEST_CASE("names in sentences stay short, whole and on one line") {
  CHECK(detail::in_quotes("a\nb\x7f") == "\"a?b?\"");
  CHECK(detail::in_quotes(std::string(119, 'a') + "é") == '"' + std::string(119, 'a') + "…\"");
  CHECK(detail::in_quotes(std::string(120, 'a')) == '"' + std::string(120, 'a') + '"');
}

TEST_CASE("views are checked before they are trusted") {
  const std::vector<float> six{1, 2, 3, 4, 5, 6};
  const auto with = [&](Shape shape, Shape strides, std::int64_t offset = 0) {
    TensorView t = view_of("t", DType::f32, {}, six);
    t.shape = std::move(shape);
    t.strides = std::move(strides);
    t.storage_offset = offset;
    return message([&] { detail::check_view(t, "t"); });
  };
  CHECK(with({2, 3}, {3, 1}) == "no error");
  CHECK(with({2, 3}, {0, 0}, 5) == "no error");
  CHECK(with({}, {}, 5) == "no error");
  CHECK(with({0, 3}, {9, 9}, 100) == "no error");
  CHECK(with({2}, {}) == "t: its shape has 1 sides and 0 strides; both must have as many; the file is damaged");
  CHECK(with(Shape(65, 1), Shape(65, 1)) == "t: it has 65 dimensions, and PyTorch has at most 64");
  CHECK(with({2, -3}, {3, 1}) == "t: side 1 is -3 with stride 1, and neither can be negative; the file is damaged");
  CHECK(with({2, 3}, {-3, 1}) == "t: side 0 is 2 with stride -3, and neither can be negative; the file is damaged");
  CHECK(with({INT64_MAX, 2}, {0, 0}) == "t: its shape has more numbers than 2^63; the file is damaged");
  CHECK(with({0, INT64_MAX, 2}, {0, 0, 0}) == "t: its shape has more numbers than 2^63; the file is damaged");
  CHECK(with({1}, {1}, -1) == "t: its storage offset is -1, which can't be; the file is damaged");
  CHECK(with({3, 2}, {INT64_MAX, 1}) == "t: its strides reach further than 2^63; the file is damaged");
  CHECK(with({2, 2}, {INT64_MAX, INT64_MAX}) == "t: its strides reach further than 2^63; the file is damaged");
  const std::string out =
      "t: it begins at number 1 of its storage and reaches 5 further, and the storage holds 6 "
      "numbers; the file is cut or damaged";
  CHECK(with({2, 3}, {3, 1}, 1) == out);
  CHECK_THAT(with({1}, {1}, 6), ContainsSubstring("begins at number 6"));
  CHECK(with({1 << 13, 1 << 13}, {0, 0}) ==
        "t: it is an expanded view of 67108864 numbers on a storage of 6; in "
        "Python, save tensor.contiguous()");
}

TEST_CASE("numbers are copied in the order of rows, whatever the strides") {
  std::vector<std::int32_t> values(24);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::int32_t>(i);
  TensorView t = view_of("t", DType::i32, {2, 3, 4}, values);
  CHECK(t.is_contiguous());
  t.shape = {4, 3, 2};
  t.strides = {1, 4, 12};
  CHECK(!t.is_contiguous());
  std::vector<double> expected;
  for (int a = 0; a < 4; ++a)
    for (int b = 0; b < 3; ++b)
      for (int c = 0; c < 2; ++c) expected.push_back(a + 4 * b + 12 * c);
  CHECK(numbers(t) == expected);
  t.shape = {2, 1, 2};
  t.strides = {12, 99, 1};
  t.storage_offset = 2;
  CHECK(numbers(t) == std::vector<double>{2, 3, 14, 15});
  t.shape = {2, 2};
  t.strides = {0, 0};
  CHECK(numbers(t) == std::vector<double>{2, 2, 2, 2});
  CHECK(t.numel() == 4);
  std::vector<std::byte> wrong(15);
  CHECK_THROWS_AS(copy_contiguous(t, wrong), OptionError);

  // More than one piece of the copy, and runs that pieces cut.
  std::vector<std::uint8_t> large(3 * 700'001);
  for (std::size_t i = 0; i < large.size(); ++i) large[i] = static_cast<std::uint8_t>(i * 7 + i / 251);
  TensorView rows = view_of("rows", DType::u8, {3, 700'000}, large);
  rows.strides = {700'001, 1};
  std::vector<std::byte> copy(2'100'000);
  copy_contiguous(rows, copy);
  for (std::size_t r = 0; r < 3; ++r)
    REQUIRE(std::memcmp(copy.data() + r * 700'000, large.data() + r * 700'001, 700'000) == 0);
}

TEST_CASE("every type, as Python wrote it") {
  for (const char* name : {"types.pth", "types_legacy.pth", "types.safetensors"}) {
    INFO(name);
    const Checkpoint file = open_checkpoint(folder / name);
    CHECK(file.tensors.size() == (file.format == "safetensors" ? 19 : 20));
    CHECK(file.owner != nullptr);
    for (const auto& row : detail::dtype_table) {
      INFO(row.torch);
      const TensorView* t = file.find(row.torch);
      if (file.format == "safetensors" && row.type == DType::c128) {
        CHECK(t == nullptr);
        continue;
      }
      REQUIRE(t != nullptr);
      CHECK(t->dtype == row.type);
      CHECK(t->shape == Shape{2, 3});
      CHECK(numbers(*t) == formula(6, row.type));
    }
  }
}

TEST_CASE("strides, offsets, shared storages, no side and no number, as Python wrote them") {
  for (const char* name : {"shapes.pth", "shapes_legacy.pth"}) {
    INFO(name);
    const Checkpoint file = open_checkpoint(folder / name);
    std::vector<std::string> names;
    for (const auto& t : file.tensors) names.push_back(t.name);
    CHECK(names == std::vector<std::string>{"base", "transposed", "column", "block", "expanded", "scalar", "empty",
                                            "parameter", "tied"});
    CHECK(numbers(*file.find("base")) == formula(20));
    CHECK(file.find("transposed")->shape == Shape{5, 4});
    CHECK(file.find("transposed")->strides == Shape{1, 5});
    CHECK(numbers(*file.find("transposed")) ==
          std::vector<double>{1, 6, 11, 16, 2, 7, 12, 17, 3, 8, 13, 18, 4, 9, 14, 19, 5, 10, 15, 20});
    CHECK(file.find("column")->storage_offset == 2);
    CHECK(numbers(*file.find("column")) == std::vector<double>{3, 8, 13, 18});
    CHECK(numbers(*file.find("block")) == std::vector<double>{7, 8, 9, 12, 13, 14});
    CHECK(file.find("expanded")->strides == Shape{0, 0});
    CHECK(numbers(*file.find("expanded")) == std::vector<double>(6, 1.0));
    CHECK(file.find("scalar")->shape.empty());
    CHECK(numbers(*file.find("scalar")) == std::vector<double>{7});
    CHECK(file.find("empty")->shape == Shape{0, 3});
    CHECK(numbers(*file.find("empty")).empty());
    CHECK(numbers(*file.find("parameter")) == formula(3));
    const auto id = [&](const char* n) { return file.find(n)->storage_id; };
    CHECK(id("base") == id("transposed"));
    CHECK(id("base") == id("block"));
    CHECK(id("parameter") == id("tied"));
    CHECK(id("parameter") != id("base"));
  }
}

TEST_CASE("every protocol, CUDA's and unchecked archives") {
  for (const char* name : {"small.pth", "small_legacy.pth", "small.safetensors", "protocol1.pth", "protocol3.pth",
                           "protocol4.pth", "protocol5.pth", "protocol1_legacy.pth", "protocol4_legacy.pth", "cuda.pth",
                           "cuda_legacy.pth", "no_checksums.pth"}) {
    INFO(name);
    const Checkpoint file = open_checkpoint(folder / name);
    CHECK(file.tensors.size() == 3);
    CHECK(numbers(*file.find("weight")) == formula(6));
    CHECK(numbers(*file.find("bias")) == formula(2));
    CHECK(numbers(*file.find("count")) == std::vector<double>{5});
    CHECK(file.skipped.empty());
    CHECK(file.entry.empty());
    CHECK(file.find("absent") == nullptr);
  }
  CHECK(open_checkpoint(folder / "small.safetensors").metadata == std::map<std::string, std::string>{{"format", "pt"}});
}

TEST_CASE("the model is found in what training scripts save") {
  const Checkpoint plain = open_checkpoint(folder / "module.pth");
  CHECK(plain.tensors.size() == 7);
  CHECK(plain.tensors[0].name == "0.weight");
  Checkpoint nested = open_checkpoint(folder / "nested.pth");
  CHECK(nested.entry == "state_dict");
  CHECK(nested.skipped == std::vector<std::string>{"epoch", "optimizer", "best", "name"});
  CHECK(strip_common_prefix(nested).empty());
  REQUIRE(nested.tensors.size() == plain.tensors.size());
  for (std::size_t i = 0; i < plain.tensors.size(); ++i) {
    CHECK(nested.tensors[i].name == plain.tensors[i].name);
    CHECK(numbers(nested.tensors[i]).size() == numbers(plain.tensors[i]).size());
  }
  Checkpoint wrapped = open_checkpoint(folder / "wrapped.pth");
  CHECK(wrapped.entry == "model");
  CHECK(wrapped.skipped == std::vector<std::string>{"model_ema", "args"});
  CHECK(wrapped.tensors[0].name == "module.0.weight");
  CHECK(strip_common_prefix(wrapped) == "module.");
  CHECK(wrapped.tensors[0].name == "0.weight");
  Checkpoint lightning = open_checkpoint(folder / "lightning.pth");
  CHECK(lightning.entry == "state_dict");
  CHECK(strip_common_prefix(lightning) == "model.");

  const Checkpoint ema = open_checkpoint(folder / "wrapped.pth", {.entry = "model_ema"});
  CHECK(ema.entry == "model_ema");
  CHECK(ema.skipped == std::vector<std::string>{"model", "args"});
  const Checkpoint two = open_checkpoint(folder / "two.pth");
  CHECK(two.tensors.size() == 2);
  CHECK(two.find("generator.weight") != nullptr);
  CHECK(two.find("discriminator.weight") != nullptr);
  CHECK(two.skipped == std::vector<std::string>{"step"});
  CHECK(open_checkpoint(folder / "two.pth", {.entry = "generator"}).tensors[0].name == "weight");

  const std::string file = read_file(folder / "two.pth");
  CHECK(message_of(file, {.entry = "critic"}) ==
        "f: has no entry \"critic\"; the entries there are generator, discriminator, step");
  CHECK(message_of(file, {.entry = "step"}) ==
        "f: its entry \"step\" is no dictionary; choose one that holds tensors by name");
  CHECK(message_of(file, {.entry = "step.more"}) == "f: has no entry \"step.more\"; the entries there are none");
  CHECK(message_of(read_file(folder / "wrapped.pth"), {.entry = "args"}) ==
        "f: its entry \"args\" holds no tensors; its entries are model, model_ema, args.lr, args.names, args.set and 8 "
        "more; in Python, save model.state_dict()");
  CHECK_THROWS_AS(open_checkpoint(folder / "small.safetensors", {.entry = "model"}), OptionError);
  // Keys with dots, and the path "a.b" in two ways: the longest key is taken.
  const std::string dots =
      pth(dictionary(str("a") + "}" + str("b") + "}s" + str("a.b") + "}" + str("w") + tensor(storage("0", 2)) + "s"));
  CHECK(parse_checkpoint(as_bytes(dots), "f", {.entry = "a.b"}).entry == "a.b");
}

TEST_CASE("what is no dictionary of tensors is refused") {
  const auto of = [](const char* name) { return message_of(read_file(folder / name)); };
  CHECK(of("tensor.pth") ==
        "f: holds a single tensor, and a dictionary of tensors by name is wanted; in Python, save "
        "model.state_dict()");
  CHECK(message_of(pth("\x80\2].")) ==
        "f: holds no dictionary, and a dictionary of tensors by name is wanted; in Python, save model.state_dict()");
  CHECK(of("no_tensors.pth") == "f: holds no tensors; its entries are epoch, lr; in Python, save model.state_dict()");
  CHECK(message_of(pth("\x80\2}.")) == "f: holds no tensors; its entries are none; in Python, save model.state_dict()");
  CHECK(of("conjugate.pth") ==
        "f: tensor \"conjugate\" is a lazy view (conj); in Python, save "
        "tensor.resolve_conj().resolve_neg()");
}

TEST_CASE("nothing in a file is run, and what it asks for is named") {
  CHECK(message_of(read_file(folder / "evil.pth")) ==
        "f: its entry \"evil\" is made by \"posix.system\", which plain weights don't need, and nothing in a file is "
        "ever run; in Python, save the weights alone: torch.save(model.state_dict(), path)");
  CHECK_THAT(message_of(read_file(folder / "quantized.pth")),
             ContainsSubstring("the type torch.QInt8Storage, which is none"));
  for (const std::string& bytes : {str("os") + str("system") + "\x93", global("os", "system")}) {
    const std::string call = bytes + str("true") + "\x85R.";
    const Pickle p = Pickle::parse(as_bytes(call), "f");
    REQUIRE(p.kind(p.root()) == Pickle::Kind::call);
    const auto callee = static_cast<Pickle::Ref>(p.first_items<1>(p.root())[0]);
    CHECK(p.global(callee) == PickleGlobal::unknown);
    CHECK(p.name(callee) == "os.system");
  }
}

TEST_CASE("whole modules, as YOLO v5 and v7 are published, are read without their classes") {
  const Checkpoint state = open_checkpoint(folder / "whole_state.pth");
  REQUIRE(state.tensors.size() == 12);
  CHECK(state.tensors[0].name == "model.0.conv.weight");
  CHECK(state.tensors[0].dtype == DType::f16);
  for (const char* name : {"whole.pth", "whole_alone.pth", "whole_legacy.pth"}) {
    CAPTURE(name);
    const Checkpoint read = open_checkpoint(folder / name);
    REQUIRE(read.tensors.size() == state.tensors.size());
    for (std::size_t i = 0; i < state.tensors.size(); ++i) {
      CHECK(read.tensors[i].name == state.tensors[i].name);
      CHECK(read.tensors[i].dtype == state.tensors[i].dtype);
      CHECK(read.tensors[i].shape == state.tensors[i].shape);
      CHECK(numbers(read.tensors[i]) == numbers(state.tensors[i]));
    }
    const bool nested = read.entry == "model";
    CHECK(nested == (name == std::string_view("whole.pth")));
    // The tensors that are plain attributes belong to no state.
    CHECK(read.skipped == (nested ? std::vector<std::string>{"epoch", "best_fitness", "ema", "updates", "optimizer",
                                                             "opt", "date", "model.model.1.stride"}
                                  : std::vector<std::string>{"model.1.stride"}));
  }
}

/// The names of the tensors of a checkpoint whose pickle is this.
static std::vector<std::string> names(const std::string& pickle) {
  const std::string bytes = pth(pickle);
  std::vector<std::string> out;
  for (const auto& t : parse_checkpoint(as_bytes(bytes), "f").tensors) out.push_back(t.name);
  return out;
}

TEST_CASE("objects of unknown classes are records") {
  const std::string w = str("w") + tensor(storage("0", 2));
  const auto object = [](const std::string& state) { return global("some", "Thing") + ")\x81" + state + "b"; };
  using Names = std::vector<std::string>;
  // Attributes of what is no module, dictionaries in them, and an object among others.
  CHECK(names("\x80\2" + object("}(" + w + "u") + ".") == Names{"w"});
  CHECK(names("\x80\2" + object("}(" + str("more") + "}(" + w + "uu") + ".") == Names{"more.w"});
  CHECK(names(dictionary(str("a") + object("}(" + w + "u") + str("b") + object("}(" + w + "u"))) ==
        Names{"a.w", "b.w"});
  // A class that is a dictionary, and one that a function makes.
  CHECK(names("\x80\2" + global("some", "Dict") + ")\x81(" + w + "u.") == Names{"w"});
  CHECK(names("\x80\2" + global("copyreg", "_reconstructor") + global("some", "Thing") + "\x85R}(" + w + "ub.") ==
        Names{"w"});
  // Modules: no names but those of parameters, buffers and modules; None is no tensor.
  const auto module_of = [&](const std::string& parameters, const std::string& modules) {
    return object("}(" + w + str("_parameters") + "}(" + parameters + "u" + str("_modules") + "}(" + modules + "uu");
  };
  const std::string leaf = module_of(str("p") + tensor(storage("0", 2)) + str("bias") + "N", "");
  CHECK(names("\x80\2" + module_of("", str("a") + leaf + str("b") + leaf) + ".") == Names{"a.p", "b.p"});
  CHECK_THAT(message_of(pth("\x80\2" + module_of(str("p") + global("some", "tensor") + ")R", "") + ".")),
             ContainsSubstring("its entry \"p\" is made by \"some.tensor\""));
  // A list of its own is passed over; one that is wanted must hold tensors.
  CHECK_THAT(message_of(pth("\x80\2" + global("some", "List") + ")\x81(K\1e.")), ContainsSubstring("holds no tensors"));
  // An object that holds itself.
  CHECK_THAT(message_of(pth("\x80\2" + global("some", "Thing") + ")\x81q\0}("s + str("x") + "h\0ub."s)),
             ContainsSubstring("describes more than it can hold"));
}

TEST_CASE("foreign files are called by their names") {
  CHECK(message_of("") == "f: the file is empty (0 bytes); its download or copy failed, do it again");
  CHECK(message_of("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n") ==
        "f: the file is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository, or download the "
        "file itself");
  const std::string html =
      "f: the file is an HTML page, which a download gives in place of the file (a login, an "
      "error); download it again from the file's own address";
  CHECK(message_of("<!DOCTYPE html><html></html>") == html);
  CHECK(message_of("\xEF\xBB\xBF\n <HTML lang=en>") == html);
  CHECK(message_of("<?xml version=\"1.0\"?><Error>") ==
        "f: the file is an XML text, perhaps a server's error in place "
        "of the file; look into it and download again");
  CHECK(message_of("\x89HDF\r\n\x1a\n........")
            .starts_with(has_hdf5 ? "f: HDF5 can't read the file (" : "f: this build has no HDF5"));
  CHECK(message_of("\x1f\x8b\x08......") == "f: the file is compressed by gzip; unpack it with `gunzip`");
  CHECK(message_of(std::string(257, 'x') + "ustar" + std::string(250, '\0')) ==
        "f: the file is a tar archive; unpack it, the checkpoint may be inside");
  CHECK(message_of("GGUF\3\0\0\0"s) == "f: the file is a GGUF file of llama.cpp; convert it to safetensors in Python");
  CHECK(message_of("\x93NUMPY\1\0"s) == "f: the file is a NumPy array; load it in Python and save it as safetensors");
  CHECK(message_of("\x1c\0\0\0TFL3"s) ==
        "f: the file is a TensorFlow Lite model; use the original's weights as .pth or safetensors");
  CHECK(message_of("\0\0\0\0\2\0\0\0\0\0\0\0\0\x7d\0\0\0\0\0\0xxxx"s) ==
        "f: the file is darknet weights, which need the network's .cfg beside them; open them with the darknet reader");
  CHECK(message_of(read_file(folder / "plain.pickle")) ==
        "f: the file is a pickle that torch.save did not write; in Python, load it and torch.save the state dict");
  CHECK(message_of("{\"weight_map\": {}}") ==
        "f: the file is a JSON text; of a checkpoint in pieces (model.safetensors.index.json), open the folder");
  CHECK(message_of("\x08\x07\x12\x07onnx-ml") ==
        "f: the file is an ONNX model; use the original's weights as .pth or safetensors");
  CHECK(message_of(std::string(600, '\0')) ==
        "f: the file is zeros at least at its beginning: a download or a copy "
        "that was not finished; do it again");
  CHECK(message_of("hello") ==
        "f: the file is of no format that is known here; safetensors, .pth (torch.save) and Keras's files can be read");
  CHECK(message_of(read_file(folder / "script.pt")) ==
        "f: a TorchScript archive (torch.jit.save, or C++'s torch::save), which holds a program; in Python, "
        "torch.save(torch.jit.load(path).state_dict(), new_path), and use that file");
  CHECK(
      message_of(read_file(folder / "arrays.npz")) ==
      "f: a zip archive of NumPy arrays (.npz), not a checkpoint of PyTorch; its entries are weight.npy; unpack it if "
      "the checkpoint is inside");
  CHECK(message_of(zip({})) ==
        "f: a zip archive without a data.pkl, not a checkpoint of PyTorch; its entries are none; "
        "unpack it if the checkpoint is inside");
  CHECK(message_of(read_file(folder / "deflated.pth")) ==
        "f: zip entry \"archive/byteorder\" is compressed (method 8), and checkpoints store their entries; somebody "
        "zipped it again: load it in Python and torch.save it, or unpack it and pack it with `zip -0`");
  CHECK_THROWS_AS(open_checkpoint(folder / "absent.pth"), FileError);
  CHECK_THROWS_AS(open_checkpoint(folder), FileError);
}

TEST_CASE("safetensors: whatever breaks the format's rules is refused") {
  const auto with = [](const std::string& header, std::string_view data = "12345678") {
    const std::string bytes = safetensors(header, data);
    return message([&] { parse_safetensors(as_bytes(bytes), "f"); });
  };
  const std::string good = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  CHECK(with(good) == "no error");
  CHECK(with(good + "   ") == "no error");
  CHECK(with("{}", "") == "no error");
  CHECK(with(R"({"__metadata__":{"a":"b"},"e":{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]}})", "") == "no error");
  CHECK(message([] { parse_safetensors(as_bytes("1234567"), "f"); }) ==
        "f: 7 bytes are too few for safetensors, which begin with 8 bytes of length; copy it again");
  CHECK(message([] { parse_safetensors(as_bytes("\x10\0\0\0\0\0\0\0{}"s), "f"); }) ==
        "f: its header should have 16 bytes (byte 0), of at most 100000000, and 2 are there; the file is cut or no "
        "safetensors, copy it again");
  CHECK(
      message_of("\xff\xff\xff\xff\0\0\0\0{}"s) ==
      "f: its header should have 4294967295 bytes (byte 0), of at most 100000000, and 2 are there; the file is cut or "
      "no safetensors, copy it again");
  CHECK(with(" {}", "") == "f: its header at byte 8 does not begin with '{'; the file is no safetensors");
  CHECK_THAT(with("{\"a\":}"), StartsWith("f: the header: not valid JSON at line 1, column 6: "));
  CHECK(with(R"({"a":1,"a":2})") ==
        "f: the header: not valid JSON at line 1, column 10: the key \"a\" stands twice in "
        "one object; correct the file or make it again");
  CHECK(with(R"({"__metadata__":[]})") ==
        "f: __metadata__ must be an object of strings, and is []; write the file again");
  CHECK(with(R"({"__metadata__":{"n":1}})") ==
        "f: __metadata__ \"n\" must be a string, and is 1; write the file again");
  for (const char* entry : {"[]", "{}", R"({"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":0})",
                            R"({"dtype":"F32","shape":[2],"x":0})"})
    CHECK(with("{\"a\":" + std::string(entry) + "}") ==
          "f: tensor \"a\": its entry must have dtype, shape and data_offsets and nothing else, and is " +
              std::string(entry) + "; write the file again");
  const auto entry = [&](std::string_view dtype, std::string_view shape, std::string_view offsets,
                         std::string_view data = "12345678") {
    return with("{\"a\":{\"dtype\":" + std::string(dtype) + ",\"shape\":" + std::string(shape) +
                    ",\"data_offsets\":" + std::string(offsets) + "}}",
                data);
  };
  for (const char* dtype : {"\"F4\"", "7", "\"\""})
    CHECK(entry(dtype, "[2]", "[0,8]") ==
          "f: tensor \"a\": its dtype is " + std::string(dtype) +
              ", which is none that PyTorch computes with; save it as another type, F32 say");
  CHECK(entry("\"F32\"", "2", "[0,8]") ==
        "f: tensor \"a\": its shape must be an array, and is 2; write the file again");
  for (const char* side : {"-2", "2.0", "9223372036854775808", "\"2\"", "null"})
    CHECK(entry("\"F32\"", "[" + std::string(side) + "]", "[0,8]") ==
          "f: tensor \"a\": a side of its shape must be a count from 0 to 2^63 - 1, and is " + std::string(side) +
              "; write the file again");
  for (const char* offsets : {"[0]", "[0,8,8]", "[-1,8]", "8", "[0,8.0]"})
    CHECK(entry("\"F32\"", "[2]", offsets) ==
          "f: tensor \"a\": its data_offsets must be two counts of bytes, and are " + std::string(offsets) +
              "; write the file again");
  CHECK(entry("\"F32\"", "[2]", "[0,9]") ==
        "f: tensor \"a\": its data_offsets 0 to 9 are not inside the 8 bytes of "
        "data; the file is cut or damaged, copy it again");
  CHECK_THAT(entry("\"F32\"", "[2]", "[8,0]"), ContainsSubstring("its data_offsets 8 to 0 are not inside"));
  CHECK(entry("\"F32\"", "[3]", "[0,8]") ==
        "f: tensor \"a\": its data_offsets hold 8 bytes, and its dtype and shape need 12; the file is damaged");
  CHECK(entry("\"F32\"", "[4611686018427387904]", "[0,8]") ==
        "f: tensor \"a\": its data_offsets hold 8 bytes, and its "
        "dtype and shape need more than 2^63; the file is damaged");
  CHECK_THAT(entry("\"F32\"", "[0,4611686018427387904,4]", "[0,0]", ""), ContainsSubstring("need more than 2^63"));
  const auto two = [&](std::string_view a, std::string_view b, std::string_view data) {
    return with(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":)" + std::string(a) +
                    R"(},"b":{"dtype":"U8","shape":[2],"data_offsets":)" + std::string(b) + "}}",
                data);
  };
  CHECK(two("[0,2]", "[2,4]", "1234") == "no error");
  CHECK(two("[2,4]", "[0,2]", "1234") == "no error");
  CHECK(two("[0,2]", "[1,3]", "123") ==
        "f: tensor \"b\" begins at byte 1 of the data, and 2 was expected: two tensors "
        "overlap; the file is damaged");
  CHECK(two("[0,2]", "[3,5]", "12345") ==
        "f: tensor \"b\" begins at byte 3 of the data, and 2 was expected: there is a "
        "hole; the file is damaged");
  CHECK_THAT(two("[0,2]", "[2,4]", "12345"),
             StartsWith("f: 1 bytes at the end, from byte ") && ContainsSubstring("belong to no tensor"));
  const std::string unaligned = safetensors(R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                            R"("a":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})",
                                            "x\0\0\x80?"s);
  CHECK(numbers(*parse_safetensors(as_bytes(unaligned), "f").find("a")) == std::vector<double>{1.0});
}

TEST_CASE("safetensors are written aligned, equal and without gaps") {
  const Scratch scratch;
  const Checkpoint types = open_checkpoint(folder / "types.safetensors");
  const Checkpoint shapes = open_checkpoint(folder / "shapes.pth");
  std::vector<TensorView> all = types.tensors;
  all.insert(all.end(), shapes.tensors.begin(), shapes.tensors.end());
  const std::map<std::string, std::string> notes{{"a", "1"}, {"quote\"", "é\n"}};
  write_safetensors(scratch.path / "a", all, notes);
  write_safetensors(scratch.path / "b", all, notes);
  CHECK(read_file(scratch.path / "a") == read_file(scratch.path / "b"));
  const Checkpoint back = open_checkpoint(scratch.path / "a");
  CHECK(back.metadata == notes);
  CHECK(back.tensors.size() == all.size());
  for (const TensorView& t : all) {
    INFO(t.name);
    const TensorView* b = back.find(t.name);
    REQUIRE(b != nullptr);
    CHECK(b->dtype == t.dtype);
    CHECK(b->shape == t.shape);
    CHECK(b->is_contiguous());
    CHECK(numbers(*b) == numbers(t));
    CHECK(reinterpret_cast<std::uintptr_t>(b->storage.data()) % static_cast<std::size_t>(size_of(t.dtype)) == 0);
  }
  const std::string bytes = read_file(scratch.path / "a");
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  CHECK((8 + length) % 64 == 0);
  write_safetensors(scratch.path / "none", {});
  CHECK(open_checkpoint(scratch.path / "none").tensors.empty());

  const std::vector<double> values{1, 2};
  const auto write = [&](const std::vector<TensorView>& tensors, const std::map<std::string, std::string>& m = {}) {
    return message([&] { write_safetensors(scratch.path / "c", tensors, m); });
  };
  CHECK(write({view_of("z", DType::c128, {1}, values)}) ==
        "tensor \"z\" has the type complex128, which safetensors do not have; write a .pth");
  CHECK(write({view_of("__metadata__", DType::f64, {2}, values)}) ==
        "tensor \"__metadata__\" has the name that safetensors keep for their metadata; rename it");
  CHECK(write({view_of("a", DType::f64, {2}, values), view_of("a", DType::f64, {2}, values)}) ==
        "two tensors have the name \"a\"; rename one");
  CHECK(write({view_of("\xff", DType::f64, {2}, values)}) ==
        "the name or metadata \"\xff\" is not UTF-8, which safetensors must be; rename it");
  CHECK_THAT(write({}, {{"a", "\xff"}}), ContainsSubstring("is not UTF-8"));
  CHECK_THAT(write({view_of("a", DType::f64, {3}, values)}), ContainsSubstring("the storage holds 2 numbers"));
  CHECK(!std::filesystem::exists(scratch.path / "c"));
  CHECK_THROWS_AS(write_safetensors(scratch.path / "no folder" / "c", {}), FileError);
}

TEST_CASE(".pth is written as Python reads it, shared storages shared") {
  const Scratch scratch;
  for (const char* name : {"types.pth", "types_legacy.pth", "shapes.pth", "shapes_legacy.pth"}) {
    INFO(name);
    const Checkpoint file = open_checkpoint(folder / name);
    write_pth(scratch.path / "a.pth", file.tensors);
    write_pth(scratch.path / "b.pth", file.tensors);
    CHECK(read_file(scratch.path / "a.pth") == read_file(scratch.path / "b.pth"));
    const Checkpoint back = open_checkpoint(scratch.path / "a.pth");
    REQUIRE(back.tensors.size() == file.tensors.size());
    for (std::size_t i = 0; i < back.tensors.size(); ++i) {
      const TensorView &a = file.tensors[i], &b = back.tensors[i];
      INFO(a.name);
      CHECK(b.name == a.name);
      CHECK(b.dtype == a.dtype);
      CHECK(b.shape == a.shape);
      CHECK(b.strides == a.strides);
      CHECK(b.storage_offset == a.storage_offset);
      CHECK(numbers(b) == numbers(a));
      CHECK(reinterpret_cast<std::uintptr_t>(b.storage.data()) % 64 == 0);
      for (std::size_t j = 0; j < i; ++j)
        CHECK((back.tensors[j].storage_id == b.storage_id) == (file.tensors[j].storage_id == a.storage_id));
    }
  }
  // Two types on one storage, a large number, and a storage that ends inside a number.
  const std::vector<std::uint8_t> raw(9, 1);
  TensorView bytes = view_of("bytes", DType::u8, {9}, raw), words = view_of("words", DType::i32, {2}, raw);
  TensorView none = view_of("none", DType::f32, {0, 3'000'000'000}, std::vector<float>(), 1);
  write_pth(scratch.path / "a.pth", {bytes, words, none});
  const Checkpoint back = open_checkpoint(scratch.path / "a.pth");
  CHECK(back.tensors[0].storage_id == back.tensors[1].storage_id);
  CHECK(numbers(back.tensors[1]) == std::vector<double>(2, 0x01010101));
  CHECK(back.tensors[2].shape == Shape{0, 3'000'000'000});
  const std::vector<std::uint8_t> other(9, 1);
  CHECK(message([&] {
          write_pth(scratch.path / "c", {bytes, view_of("b", DType::u8, {9}, other)});
        }) == "tensor \"b\" has the storage id 0 of another tensor, and another storage; give each storage its own id");
  CHECK(message([&] {
          write_pth(scratch.path / "c", {bytes, bytes});
        }) == "two tensors have the name \"bytes\"; give each its own");
  CHECK(!std::filesystem::exists(scratch.path / "c"));
}

TEST_CASE("zip: what is cut, damaged, encrypted or double is refused") {
  const auto of = [](const std::string& bytes) { return message([&] { parse_zip(as_bytes(bytes), "f"); }); };
  const std::string good = zip({{"one", "1"}, {"two", "22"}});
  const auto entries = parse_zip(as_bytes(good), "f");
  REQUIRE(entries.size() == 2);
  CHECK(entries[1].name == "two");
  CHECK(entries[1].bytes.size() == 2);
  CHECK((entries[1].bytes.data() - reinterpret_cast<const std::byte*>(good.data())) % 64 == 0);
  CHECK(of(good.substr(0, good.size() - 1)) ==
        "f: a zip archive of " + std::to_string(good.size() - 1) +
            " bytes without the directory that belongs at its end: the file was cut, copy it again");
  CHECK_THAT(of("PK\3\4"), StartsWith("f: a zip archive of 4 bytes without the directory"));
  std::string commented = good + "hello";
  commented[good.size() - 2] = 5;
  CHECK(parse_zip(as_bytes(commented), "f").size() == 2);

  const std::size_t directory = good.find("PK\1\2"), end = good.find("PK\5\6");
  const auto patched = [&](std::size_t at, std::string_view bytes) {
    std::string out = good;
    out.replace(at, bytes.size(), bytes);
    return of(out);
  };
  CHECK(patched(end + 16, le(directory + 1, 4)) == "f: the zip directory has 2 entries in " +
                                                       std::to_string(end - directory) + " bytes from byte " +
                                                       std::to_string(directory + 1) + " on, and it must end at byte " +
                                                       std::to_string(end) + "; the file is damaged, copy it again");
  CHECK_THAT(patched(end + 10, "\xff\xff"), StartsWith("f: the zip directory has 65535 entries in "));
  CHECK(patched(end + 10, "\1") == "f: no zip directory entry at byte " + std::to_string(directory + 49) +
                                       ", after 1 of 1; the file is damaged, copy it again");
  CHECK_THAT(patched(directory, "x"), StartsWith("f: no zip directory entry at byte "));
  CHECK(patched(directory + 8, "\1") ==
        "f: zip entry \"one\" is encrypted, which checkpoints never are; unpack the archive, it may hold one");
  CHECK(patched(directory + 20, "\2") ==
        "f: zip entry \"one\" is stored, and has 2 bytes in the archive and 1 outside; "
        "the file is damaged, copy it again");
  CHECK(patched(directory + 42, "\1") ==
        "f: zip entry \"one\": its header is not at byte 1; the file is damaged, copy it again");
  CHECK_THAT(patched(directory + 46, "x"), StartsWith("f: zip entry \"xne\": its header is not at byte 0"));
  CHECK_THAT(patched(directory + 42, "\0\0\xff\0"s),
             StartsWith("f: a zip entry's header at byte 16711680 needs 30 bytes"));
  CHECK(patched(directory + 20, le(0x00600000'00600000, 8)) ==
        "f: zip entry \"one\" at byte 64 needs 6291456 bytes, and the file ends at byte " +
            std::to_string(good.size()) + "; the file is cut or damaged, copy it again");
  CHECK(patched(directory + 20, "\x46\0\0\0\x46\0\0\0"s) ==
        "f: the zip entry at byte 0 reaches into what follows it; the file is damaged, copy it again");
  CHECK_THAT(patched(directory + 30, "\xff"), ContainsSubstring("a zip directory entry at byte"));
  const auto in_extra = [&](std::string_view extra) {
    std::string out = good.substr(0, directory + 49) + std::string(extra) + good.substr(directory + 49);
    out[directory + 30] = static_cast<char>(extra.size());
    const std::size_t moved = out.find("PK\5\6");
    out.replace(moved + 12, 4, le(moved - directory, 4));
    return out;
  };
  CHECK_THAT(of(in_extra("xx\1\0"s)), ContainsSubstring("an extra field at byte"));
  CHECK(of(in_extra("xx\1\0y"s)) == "no error");
  CHECK(of(zip({{"one", "1"}, {"one", "2"}})) == "f: zip entry \"one\" stands twice in the archive; save it again");
  // Fewer entries than announced.
  std::string fewer = good;
  fewer.replace(end + 8, 4, "\3\0\3\0"s);
  fewer.insert(end, std::string(46, '\0'));
  fewer.replace(end + 46 + 12, 4, le(end + 46 - directory, 4));
  CHECK_THAT(of(fewer), StartsWith("f: no zip directory entry at byte "));

  ZipEntry entry = entries[0];
  CHECK(message([&] { check_zip_entry(entry, "f"); }) == "no error");
  entry.checksum ^= 1;
  CHECK(message([&] { check_zip_entry(entry, "f"); }) ==
        "f: the bytes of zip entry \"one\" do not have their checksum; the file is damaged, copy it again");
  CHECK(message([&] { check_zip_entry(entry, "f", false); }) == "no error");
}

TEST_CASE("zip64 is read") {
  // The same archive with all its sizes and places in zip64 fields.
  std::string bytes = zip({{"one", "1"}});
  const std::size_t directory = bytes.find("PK\1\2"), end = bytes.find("PK\5\6");
  std::string entry = bytes.substr(directory, end - directory);
  const std::string all_ones(4, '\xff');
  entry.replace(20, 8, all_ones + all_ones);
  entry.replace(30, 2, le(28, 2));
  entry.replace(42, 4, all_ones);
  entry += le(1, 2) + le(24, 2) + le(1, 8) + le(1, 8) + le(0, 8);
  const std::string record = "PK\6\6" + le(44, 8) + le(45, 2) + le(45, 2) + le(0, 8) + le(1, 8) + le(1, 8) +
                             le(entry.size(), 8) + le(directory, 8);
  const std::string locator = "PK\6\7" + le(0, 4) + le(directory + entry.size(), 8) + le(1, 4);
  const std::string tail = "PK\5\6" + le(0, 4) + all_ones + all_ones + all_ones + le(0, 2);
  const std::string large = bytes.substr(0, directory) + entry + record + locator + tail;
  const auto entries = parse_zip(as_bytes(large), "f");
  REQUIRE(entries.size() == 1);
  CHECK(entries[0].bytes.size() == 1);
  std::string wrong = large;
  wrong[directory + entry.size()] = 'x';
  CHECK(message([&] { parse_zip(as_bytes(wrong), "f"); }) == "f: no zip64 end record at byte " +
                                                                 std::to_string(directory + entry.size()) +
                                                                 "; the file is damaged, copy it again");
}

TEST_CASE("a pickle's values") {
  const auto parse = [](const std::string& bytes) { return Pickle::parse(as_bytes(bytes), "f"); };
  using Kind = Pickle::Kind;
  const auto integer = [&](const std::string& bytes) {
    const Pickle p = parse(bytes);
    REQUIRE(p.kind(p.root()) == Kind::integer);
    CHECK(p.size() == bytes.size());
    return p.integer(p.root());
  };
  CHECK(integer("K\xff.") == 255);
  CHECK(integer("M\xff\xff.") == 65535);
  CHECK(integer("J\xff\xff\xff\xff.") == -1);
  CHECK(integer("\x8a\0."s) == 0);
  CHECK(integer("\x8a\1\xff.") == -1);
  CHECK(integer("\x8a\2\xff\0."s) == 255);
  CHECK(integer("\x8b\1\0\0\0\x7f."s) == 127);
  CHECK(integer("I42\n.") == 42);
  CHECK(integer("L-42L\n.") == -42);
  const auto kind = [&](const std::string& bytes) {
    const Pickle p = parse(bytes);
    return p.kind(p.root());
  };
  CHECK(kind("\x8a\x09\1\1\1\1\1\1\1\1\1.") == Kind::bytes);
  CHECK(kind("L99999999999999999999L\n.") == Kind::bytes);
  CHECK(kind("N.") == Kind::none);
  CHECK(kind("I01\n.") == Kind::boolean);
  CHECK(kind("I00\n.") == Kind::boolean);
  CHECK(kind("B\1\0\0\0x."s) == Kind::bytes);
  CHECK(kind("C\1x.") == Kind::bytes);
  CHECK(kind("\x8e\1\0\0\0\0\0\0\0x."s) == Kind::bytes);
  CHECK(kind("\x96\1\0\0\0\0\0\0\0x."s) == Kind::bytes);
  CHECK(kind("(K\1\x91.") == Kind::list);
  CHECK(kind("(K\1l.") == Kind::list);
  CHECK(kind("(K\1K\2d.") == Kind::dict);
  const Pickle half = parse("G?\xe0\0\0\0\0\0\0."s);
  CHECK(half.kind(half.root()) == Kind::real);
  CHECK(half.real(half.root()) == 0.5);
  for (const std::string& s : {"X\2\0\0\0hi."s, "\x8c\2hi."s, "\x8d\2\0\0\0\0\0\0\0hi."s, "U\2hi."s, "T\2\0\0\0hi."s}) {
    const Pickle p = parse(s);
    CHECK(p.kind(p.root()) == Kind::string);
    CHECK(p.string(p.root()) == "hi");
  }
  CHECK(half.string(half.root()).empty());
  CHECK(half.items(half.root()) == 0);
  CHECK(half.global(half.root()) == PickleGlobal::other);
  int none = 0;
  half.for_items(half.root(), [&](Pickle::Ref) { return ++none != 0; });
  half.for_pairs(half.root(), [&](Pickle::Ref, Pickle::Ref) { return ++none != 0; });
  CHECK(none == 0);

  const auto items = [&](const std::string& bytes) {
    const Pickle p = parse(bytes);
    std::vector<std::int64_t> out;
    p.for_items(p.root(), [&](Pickle::Ref r) {
      out.push_back(p.integer(r));
      return true;
    });
    CHECK(out.size() == p.items(p.root()));
    return out;
  };
  using Numbers = std::vector<std::int64_t>;
  CHECK(items("K\1K\2K\3\x87.") == Numbers{1, 2, 3});
  CHECK(items("](K\1K\2eK\3a.") == Numbers{1, 2, 3});
  CHECK(items("\x8f(K\1K\2\x90.") == Numbers{1, 2});
  CHECK(items("}K\1K\2s(K\3K\4u.") == Numbers{1, 2, 3, 4});
  CHECK(items("K\7q\0\60K\1h\0\x86."s) == Numbers{1, 7});
  CHECK(items("K\7r\5\0\0\0\60j\5\0\0\0\x85."s) == Numbers{7});
  CHECK(items("K\7\x94\60h\0\x85."s) == Numbers{7});
  CHECK(items("K\1\62\x86.") == Numbers{1, 1});
  CHECK(items("](K\1(\60K\2e.") == Numbers{1, 2});
  CHECK(items("(K\1K\2\61K\3\x85.") == Numbers{3});
  CHECK(items("\x80\5\x95\3\0\0\0\0\0\0\0K\1\x85."s) == Numbers{1});
  const std::string ordered = global("collections", "OrderedDict");
  CHECK(items(ordered + ")RK\1K\2s.") == Numbers{1, 2});
  CHECK(items(ordered + ")RK\1K\2s}" + str("_metadata") + "}sb.") == Numbers{1, 2});
  CHECK(items(ordered + ")\x81.").empty());
  CHECK(items(ordered + "]((K\1K\2t(K\3K\4te\x85R.") == Numbers{1, 2, 3, 4});
  CHECK(items(global("collections", "Counter") + "}K\1K\2s\x85R.") == Numbers{1, 2});
  CHECK(items(global("collections", "defaultdict") + global("__builtin__", "list") + "\x85R.").empty());
  CHECK(items(global("torch", "Size") + "K\2K\3\x86\x85R.") == Numbers{2, 3});
  CHECK(kind(global("torch", "Size") + ")R.") == Kind::call);
  CHECK(kind(global("torch", "device") + str("cpu") + "\x85R.") == Kind::call);
  CHECK(kind(str("torch") + str("float32") + "\x93.") == Kind::global);
  // A list that holds itself.
  const Pickle loop = parse("]q\0h\0a."s);
  CHECK(loop.first_items<2>(loop.root()) == std::array<std::int64_t, 2>{loop.root(), -1});
}

TEST_CASE("a pickle that breaks the rules is refused") {
  CHECK(pickle_message("") == "f: the pickle at byte 0 needs 1 bytes more, and 0 are left; the file is cut or damaged");
  CHECK(pickle_message("K\1") ==
        "f: the pickle at byte 2 needs 1 bytes more, and 0 are left; the file is cut or damaged");
  CHECK(message([] { Pickle::parse(as_bytes("X\xff\xff\xff\xff."), "f", 100); }) ==
        "f: the pickle at byte 100 needs 4294967295 bytes more, and 1 are left; the file is cut or damaged");
  CHECK(pickle_message("I42") == "f: the pickle at byte 0 has a line without an end; the file is cut or damaged");
  CHECK(pickle_message("\x80\6.") ==
        "f: the pickle at byte 0 has protocol 6, and 0 to 5 are known; the file is damaged");
  CHECK(pickle_message("\x95\xff\0\0\0\0\0\0\0."s) ==
        "f: the pickle at byte 0 has a frame of 255 bytes, and 1 are left; the file is cut");
  CHECK(pickle_message("NN.") == "f: the pickle at byte 2 ends with 1 values too many on its stack");
  CHECK_THAT(pickle_message("(N."), ContainsSubstring("ends with"));
  CHECK(pickle_message(".") == "f: the pickle at byte 0 wants a value, and its stack has none; the file is damaged");
  CHECK_THAT(pickle_message("N(\x94."), ContainsSubstring("wants a value"));
  CHECK(pickle_message("Nt.") == "f: the pickle at byte 1 wants a mark, and there is none; the file is damaged");
  CHECK(pickle_message("N\x86.") ==
        "f: the pickle at byte 1 wants 2 values, and its stack has fewer; the file is damaged");
  CHECK_THAT(pickle_message("}NN(NNs."), ContainsSubstring("wants 3 values, and its stack has fewer"));
  CHECK(pickle_message("(Nd.") == "f: the pickle at byte 2 has a key without a value; the file is damaged");
  CHECK(pickle_message("}(Nu.") == "f: the pickle at byte 3 has a key without a value; the file is damaged");
  CHECK(pickle_message("(Ne.") == "f: the pickle at byte 2 has nothing to add to; the file is damaged");
  CHECK(pickle_message(")Na.") == "f: the pickle at byte 2 appends to what is no list; the file is damaged");
  CHECK(pickle_message(")NNs.") ==
        "f: the pickle at byte 3 sets an item of what is no dictionary; the file is damaged");
  CHECK(pickle_message("h\7.") == "f: the pickle at byte 0 asks for memo 7, which was never put; the file is damaged");
  CHECK_THAT(pickle_message("Nr\2\0\0\0\60h\1."s), ContainsSubstring("asks for memo 1"));
  CHECK(pickle_message("Nr\xff\xff\xff\xff.") ==
        "f: the pickle at byte 1 puts memo 4294967295 in 7 bytes; the file is damaged");
  CHECK(pickle_message("I4x\n.") == "f: the pickle at byte 0 has \"4x\" where a number belongs; the file is damaged");
  CHECK_THAT(pickle_message("L\n."), ContainsSubstring("has \"\" where a number belongs"));
  CHECK(pickle_message("T\xff\xff\xff\xff.") == "f: the pickle at byte 0 has a length of -1; the file is damaged");
  CHECK(pickle_message("NN\x93.") ==
        "f: the pickle at byte 2 has a global whose name is no string; the file is damaged");
  CHECK(pickle_message("NNR.") == "f: the pickle at byte 2 calls what can't be called; the file is damaged");
  CHECK_THAT(pickle_message(global("torch", "Size") + "NR."), ContainsSubstring("calls what can't be called"));
  CHECK_THAT(pickle_message(global("collections", "OrderedDict") + "]Na\x85R."),
             ContainsSubstring("makes a dictionary of what are no pairs"));
  for (const char* op : {"V", "\x82", "\x97", "\x92", "i", "P"})
    CHECK_THAT(pickle_message(op + "x\n."s),
               ContainsSubstring(", which torch.save does not write; the file is damaged, or no checkpoint"));
  CHECK_THAT(pickle_message("\x97"), StartsWith("f: the pickle at byte 0 has the opcode 0x97,"));
}

TEST_CASE("a .pth whose tree is not tensors on storages is refused") {
  const auto one = [](const std::string& value) { return message_of(pth(dictionary(str("w") + value))); };
  CHECK(one(tensor(storage("0", 2))) == "no error");
  CHECK(one(tensor(storage("0", 2), 1)) ==
        "f: tensor \"w\": it begins at number 1 of its storage and reaches 1 "
        "further, and the storage holds 2 numbers; the file is cut or damaged");
  CHECK(one(tensor(storage("9", 2))) == "f: no zip entry \"a/data/9\", which its pickle names; the file is damaged");
  CHECK(one(tensor(storage("0", 3))) ==
        "f: zip entry \"a/data/0\" has 8 bytes, and its pickle says 3 x 4 = 12; the file is damaged");
  CHECK(message_of(pth(dictionary(str("w") + tensor(storage("0", 2)) + str("v") + tensor(storage("0", 1))))) ==
        "f: the storage \"0\" has 2 float32 in one place and 1 float32 in another; the file is damaged");
  CHECK(message_of(pth(dictionary(str("w") + tensor(storage("0", 2)) + str("w") + tensor(storage("0", 2))))) ==
        "f: two tensors have the name \"w\"; the file is damaged");
  CHECK(one(tensor("N")) == "f: tensor \"w\" has no storage; the file is damaged");
  CHECK(one(tensor("NQ")) ==
        "f: a persistent id in its pickle names no storage; the file is damaged, or no checkpoint");
  CHECK_THAT(one(tensor("(" + str("module") + "NNNNtQ")), ContainsSubstring("names no storage"));
  CHECK(one(tensor(storage("0", 2, "Size"))) ==
        "f: the storage \"0\" has the type torch.Size, which is none; the file is damaged");
  CHECK(one(tensor("(" + str("storage") + global("torch", "FloatStorage") + str("0") + str("cpu") + "NtQ")) ==
        "f: the storage \"0\": its count is no integer; the file is damaged");
  CHECK(one(tensor("(" + str("storage") + global("torch", "FloatStorage") + str("0") + str("cpu") +
                   "J\xff\xff\xff\xfftQ")) == "f: the storage \"0\" has a count of -1; the file is damaged");
  CHECK(one(tensor(storage("0", 2), 0, "N")) == "f: tensor \"w\": its shape is no tuple; the file is damaged");
  CHECK(one(tensor(storage("0", 2), 0, "N\x85")) == "f: tensor \"w\": its shape is no integer; the file is damaged");
  CHECK_THAT(one(tensor(storage("0", 2), 0, ")")), ContainsSubstring("0 sides and 1 strides"));
  CHECK(one(global("torch._utils", "_rebuild_tensor") + "(" + storage("0", 2) + "tR") ==
        "f: tensor \"w\": its offset is no integer; the file is damaged");
  CHECK(one(global("torch._utils", "_rebuild_tensor") + "(" + storage("0", 2) + "K\0K\2\x85K\1\x85tR"s) == "no error");
  const std::string v3 =
      global("torch._utils", "_rebuild_tensor_v3") + "(" + storage("0", 2) + "K\0K\2\x85K\1\x85\x89}"s;
  CHECK(one(v3 + global("torch", "float32") + "tR") == "no error");
  CHECK(one(v3 + "NtR") == "f: tensor \"w\" has no dtype; the file is damaged");
  CHECK(one(v3 + "tR") == "f: tensor \"w\" has no dtype; the file is damaged");
  CHECK(one(v3 + global("torch", "float32") + "}" + str("neg") + "\x88stR") ==
        "f: tensor \"w\" is a lazy view (neg); in Python, save tensor.resolve_conj().resolve_neg()");
  CHECK(one(v3 + global("torch", "float32") + "}K\1\x89stR") == "no error");
  const std::string rebuild_parameter = global("torch._utils", "_rebuild_parameter");
  CHECK(one(rebuild_parameter + "(" + tensor(storage("0", 2)) + "\x88}tR") == "no error");
  const std::string no_tensor = "f: tensor \"w\" is rebuilt from what is no tensor; the file is damaged";
  CHECK(one(rebuild_parameter + ")R") == no_tensor);
  CHECK(one(rebuild_parameter + "N\x85R") == no_tensor);
  const std::string from_type = global("torch._tensor", "_rebuild_from_type_v2") + "(";
  CHECK(one(from_type + global("torch._utils", "_rebuild_tensor_v2") + global("torch", "Tensor") + "(" +
            storage("0", 2) + "K\0K\2\x85K\1\x85\x89}t"s + "}tR") == "no error");
  CHECK(one(from_type + "tR") == no_tensor);
  CHECK(one(from_type + "NN)tR") == no_tensor);
  std::string deep = tensor(storage("0", 2));
  for (int i = 0; i < 5; ++i) deep = rebuild_parameter + deep + "\x85R";
  CHECK(one(deep) == no_tensor);

  CHECK(message_of(pth(dictionary(str("w") + tensor(storage("0", 2))), "big")) ==
        "f: its byte order is \"big\", and only \"little\" is read; load and save it again on a little-endian machine");
  CHECK(message_of(zip({{"a/data.pkl", "N."}, {"b/data.pkl", "N."}})) ==
        "f: two pickles, \"a/data.pkl\" and \"b/data.pkl\", where a checkpoint has one; save it again");
  // Without a folder, and without a byte order (before PyTorch 2.1).
  const std::string pickle = dictionary(str("w") + tensor(storage("0", 2)));
  CHECK(message_of(zip({{"data.pkl", pickle}, {"data/0", "\0\0\x80?\0\0\0@"s}})) == "no error");
  std::string flipped = pth(pickle);
  flipped[flipped.find("\x80?\0"s)] ^= 1;
  CHECK(message_of(flipped) ==
        "f: the bytes of zip entry \"a/data/0\" do not have their checksum; the file is damaged, copy it again");
}

TEST_CASE("dictionaries of dictionaries") {
  const std::string w = str("w") + tensor(storage("0", 2));
  using Names = std::vector<std::string>;
  CHECK(names(dictionary(str("x") + "}(" + str("y") + "}(" + w + "uu")) == Names{"x.y.w"});
  CHECK(names(dictionary(str("model") + "}(" + str("state_dict") + "}(" + w + "uu")) == Names{"w"});
  // The first of the usual names counts, not the first of the file.
  CHECK(names(dictionary(str("ema") + "}(" + str("v") + tensor(storage("0", 2)) + "u" + str("model") + "}(" + w +
                         "u")) == Names{"w"});
  // A dictionary that holds itself ends somewhere.
  CHECK_THAT(message_of(pth("\x80\2}q\0("s + str("x") + "h\0u."s)), ContainsSubstring("holds no tensors"));
  CHECK_THAT(message_of(pth("\x80\2}q\0("s + str("model") + "h\0u."s)), ContainsSubstring("holds no tensors"));
}

TEST_CASE("legacy files that contradict themselves are refused") {
  const std::string pickle = dictionary(str("w") + tensor(storage("0", 2)));
  const std::string head = legacy_head + legacy_system, data = le(2, 8) + "\0\0\x80?\0\0\0@"s;
  const std::string keys = "\x80\2](" + str("0") + "e.";
  const std::string good = head + pickle + keys + data;
  CHECK(message_of(good) == "no error");
  CHECK(numbers(*parse_checkpoint(as_bytes(good), "f").find("w")) == std::vector<double>{1, 2});
  CHECK(message_of(legacy_head.substr(0, 15) + "K\7." + legacy_system) ==
        "f: a legacy checkpoint whose protocol is not 1001; the file is damaged");
  CHECK(message_of(legacy_head + "\x80\2}" + str("little_endian") + "\x89s." + pickle + keys + data) ==
        "f: it was saved on a big-endian machine; load and save it again on a little-endian one");
  CHECK_THAT(message_of(head + pickle + "N."), StartsWith("f: no list of storages at byte "));
  CHECK(message_of(head + pickle + "\x80\2](" + str("1") + "e." + data) ==
        "f: its list of storages has \"1\", which its pickle does not name; the file is damaged");
  CHECK(message_of(head + pickle + "\x80\2](" + str("0") + str("0") + "e." + data + data) ==
        "f: its list of storages has \"0\" twice; the file is damaged");
  CHECK(message_of(head + pickle + "].") == "f: its list has 0 storages, and its pickle names 1; the file is damaged");
  CHECK_THAT(message_of(head + pickle + keys + le(3, 8) + "........"),
             ContainsSubstring("has 3 numbers, and its pickle says 2; the file is damaged"));
  CHECK_THAT(message_of(good.substr(0, good.size() - 1)), StartsWith("f: the storage \"0\" at byte "));
  CHECK_THAT(message_of(good + "x"), StartsWith("f: 1 bytes from byte ") && ContainsSubstring("belong to no storage"));
  // Views of storages, which old versions wrote: (key, offset, count).
  const auto viewed = [&](int offset, int count, int at) {
    return head +
           dictionary(str("w") +
                      tensor(storage("0", 2, "FloatStorage", "(" + str("v") + number(offset) + number(count) + "t"), at,
                             "K\1\x85")) +
           keys + data;
  };
  const std::string view = viewed(1, 1, 0);
  CHECK(numbers(*parse_checkpoint(as_bytes(view), "f").find("w")) == std::vector<double>{2});
  CHECK(message_of(viewed(1, 2, 0)) ==
        "f: the storage \"0\" has 2 numbers, and a view of 2 from 1 on; the file is damaged");
  CHECK_THAT(message_of(viewed(1, 1, 1)), ContainsSubstring("the storage holds 1 numbers"));
  // Storages of old versions on a GPU, and names as Python 2 wrote them.
  const std::string gpu = head +
                          dictionary("U\1w" + tensor("(U\7storage" + global("torch.cuda", "FloatStorage") +
                                                     "U\1"
                                                     "0U\6cuda:0K\2tQ")) +
                          keys + data;
  CHECK(numbers(*parse_checkpoint(as_bytes(gpu), "f").find("w")) == std::vector<double>{1, 2});
}

namespace {

/// Tensors' names, types, shapes and bytes.
std::string contents(const Checkpoint& file) {
  std::string out;
  for (const TensorView& t : file.tensors) {
    out += t.name + " " + std::string(to_string(t.dtype)) + " ";
    for (const std::int64_t side : t.shape) out += std::to_string(side) + ",";
    detail::for_contiguous(
        t, [&](std::span<const std::byte> run) { out.append(reinterpret_cast<const char*>(run.data()), run.size()); });
  }
  return out;
}

}  // namespace

TEST_CASE("small files, cut at every byte and each bit flipped") {
  for (const char* name :
       {"small.pth", "small_legacy.pth", "small.safetensors", "protocol4.pth", "shapes.pth", "shapes_legacy.pth",
        "types_legacy.pth", "types.safetensors", "two.pth", "cuda_legacy.pth"}) {
    INFO(name);
    const std::string good = read_file(folder / name);
    REQUIRE(good.size() <= 4096);
    const std::string expected = contents(parse_checkpoint(as_bytes(good), "f"));
    std::size_t worst = 0;
    const auto read = [&](const std::string& bytes) -> std::string {
      const std::size_t before = live;
      peak = before;
      std::string out;
      try {
        const Checkpoint file = parse_checkpoint(as_bytes(bytes), "f");
        worst = std::max(worst, peak - before);
        // Whatever was accepted can be read, and stays inside the bytes.
        for (const TensorView& t : file.tensors)
          if (t.storage.data() < as_bytes(bytes).data() ||
              t.storage.data() + t.storage.size() > as_bytes(bytes).data() + bytes.size())
            return "outside";
        out = contents(file);
      } catch (const FormatError&) {
        worst = std::max(worst, peak - before);
        return "error";
      }
      return out;
    };
    for (std::size_t n = 0; n < good.size(); ++n)
      if (read(good.substr(0, n)) != "error") FAIL("cut at byte " << n);
    // A zip's bytes have checksums: what is accepted is equal. The other formats have none: a name, a number, or an
    // equal shape may come of it.
    const bool checked = is_zip(as_bytes(good));
    for (std::size_t bit = 0; bit < 8 * good.size(); ++bit) {
      std::string bytes = good;
      bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
      const std::string got = read(bytes);
      if (got == "outside" || (checked && got != "error" && got != expected)) FAIL("bit " << bit);
    }
    CHECK(worst < 64 * 1024 + 40 * good.size());
  }
}

TEST_CASE("a file can't make a parser take much memory or time") {
  const std::size_t n = 200'000;
  const auto appetite = [](const std::string& bytes) {
    const std::size_t before = live;
    peak = before;
    message_of(bytes);
    return static_cast<double>(peak - before) / static_cast<double>(bytes.size());
  };
  const auto many = [&](const std::string& piece) {
    std::string out;
    while (out.size() < n) out += piece;
    return out;
  };
  const std::string magic = legacy_head + legacy_system;
  CHECK(appetite(magic + many("]")) < 48);
  CHECK(appetite(magic + many("(")) < 48);
  CHECK(appetite(magic + "N" + many("\x85")) < 48);
  CHECK(appetite(magic + many("]\x94")) < 48);
  CHECK(appetite(magic + many("K\1Q")) < 48);
  // One tensor of 64 dimensions, by another name each time.
  std::string names, sides = "(";
  for (int i = 0; i < 64; ++i) sides += "K\1";
  sides += "t";
  for (int i = 0; i < 20'000; ++i) names += str(std::to_string(i)) + "h\0"s;
  const std::string first = str("w") + tensor(storage("0", 1), 0, sides, sides) + "q\0"s;
  CHECK(appetite(pth(dictionary(first + names))) < 48);
  CHECK_THAT(message_of(magic + dictionary(first + names) + "\x80\2](" + str("0") + "e." + le(1, 8) + "....."),
             ContainsSubstring("belong to no storage"));
  // Dictionaries that double at each level: 2^30 paths to one tensor.
  std::string doubled = "\x80\2}(" + str("w") + tensor(storage("0", 2)) + "uq\0";
  doubled += '\0';
  for (int i = 0; i < 30; ++i)
    doubled += "\60}(" + str("a") + "h" + static_cast<char>(i) + str("b") + "h" + static_cast<char>(i) + "uq" +
               static_cast<char>(i + 1);
  CHECK(message_of(pth(doubled + ".")) != "");
  CHECK(appetite(pth(doubled + ".")) < 64);
  // JSON: nested, and many small values.
  CHECK(appetite(safetensors("{\"a\":" + std::string(n, '['))) < 64);
  CHECK(appetite(safetensors("{\"a\":[" + many("0,") + "0]}")) < 64);
  CHECK(appetite(safetensors("{\"a\":[" + many("[],") + "0]}")) < 64);
  CHECK(appetite(safetensors("{" + many("\"a\":{},") + "}")) < 64);
}
