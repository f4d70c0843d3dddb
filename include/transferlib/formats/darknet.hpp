/// \file
/// darknet's files (Redmon, "Darknet: open source neural networks in C"; Bochkovskiy's continuation of it): a network's
/// `.cfg`, as checked layers, and its `.weights`, a short header and nothing but floats in the network's order.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/formats/tensor_view.hpp>

namespace transferlib {

/// The layers of darknet that can be run. The last five only train there or find objects behind the network.
enum class DarknetType {
  convolutional,
  connected,
  local,
  maxpool,
  avgpool,
  shortcut,
  route,
  upsample,
  reorg,
  reorg3d,
  dropout,
  softmax,
  batchnorm,
  crop,
  yolo,
  region,
  detection,
  cost
};

/// What a layer is called in a `.cfg`, without the brackets.
inline std::string_view to_string(DarknetType type) {
  constexpr std::string_view names[] = {"convolutional", "connected", "local", "maxpool", "avgpool",   "shortcut",
                                        "route",         "upsample",  "reorg", "reorg3d", "dropout",   "softmax",
                                        "batchnorm",     "crop",      "yolo",  "region",  "detection", "cost"};
  return names[static_cast<std::size_t>(type)];
}

/// A line `key=value` of a `.cfg`.
struct DarknetOption {
  std::string key, value;
  Index line = 0;
};

/// A layer of a `.cfg`: its numbers, checked, with darknet's defaults where the file is silent. Only those of its type
/// mean something.
struct DarknetLayer {
  DarknetType type = DarknetType::convolutional;
  Index line = 0;                      ///< of its section in the file, from 1
  std::vector<DarknetOption> options;  ///< all of its lines; of several with one key darknet takes the first

  Index filters = 0;  ///< channels that it gives (convolutional, local), or values (connected)
  Index size = 1;     ///< side of the window
  Index stride = 1;
  Index padding = 0;   ///< convolutional, local: zeros on each side; maxpool: on both sides together, the odd one last
  Index dilation = 1;  ///< convolutional
  Index groups = 1;    ///< convolutional, route (which part of each layer's channels: `group_id`), softmax
  Index group_id = 0;
  bool batch_normalize = false;
  std::string activation = "linear";
  std::vector<Index> from;   ///< shortcut, route: the numbers of layers before it, from 0
  double probability = 0.0;  ///< dropout
  double scale = 1.0;        ///< upsample: its factor; softmax: its temperature

  /// \name yolo, region, detection: what a detector needs.
  /// \{
  Index classes = 0;
  Index boxes = 0;               ///< anchors (detection: boxes) that each place predicts; yolo: as many as `mask` has
  Index coordinates = 4;         ///< numbers that a box has
  std::vector<double> anchors;   ///< width, height, width, height …; yolo: all, in pixels; region: in places
  std::vector<Index> mask;       ///< yolo: which pairs of `anchors` are its own
  double scale_x_y = 1.0;        ///< yolo: grid sensitivity
  bool new_coordinates = false;  ///< yolo: the values come through a logistic activation already
  bool softmax = false;          ///< region, detection: classes exclude each other
  bool background = false;       ///< region: objectness has no logistic
  Index side = 0;                ///< detection: places along a side
  /// \}

  /// \name crop: what it would cut and shift the picture to.
  /// \{
  Index crop_width = 0, crop_height = 0;
  bool shifts = false;  ///< from [0, 1] to [-1, 1]
  /// \}

  /// The value of a key, as it is written; nullptr where the layer has none.
  const std::string* find(std::string_view key) const {
    for (const DarknetOption& o : options)
      if (o.key == key) return &o.value;
    return nullptr;
  }
};

/// What a layer gives for one picture.
struct DarknetShape {
  Index channels = 0, height = 0, width = 0;
  friend bool operator==(const DarknetShape&, const DarknetShape&) = default;
};

/// A whole `.cfg`.
struct DarknetConfig {
  std::string where;                 ///< the file's name, for sentences
  DarknetShape input;                ///< of a picture
  std::vector<DarknetOption> net;    ///< the lines of `[net]`
  std::vector<DarknetLayer> layers;  ///< numbered from 0, as darknet counts them
  std::vector<std::string> notes;    ///< a sentence on each thing that the file says and that is not done
  Index used = 0;                    ///< how many of the layers the network is cut to; the others tell what files hold
};

namespace detail {

/// A `.cfg`'s section before it is known what it is.
struct DarknetSection {
  std::string type;
  Index line = 0;
  std::vector<DarknetOption> options;
};

/// A text without blanks of any kind, and without what stands behind # or ;.
inline std::string darknet_strip(std::string_view line) {
  std::string out;
  for (const char c : line.substr(0, line.find_first_of("#;")))
    if (c != ' ' && c != '\t' && c != '\r' && c != '\n' && c != '\v' && c != '\f') out += c;
  return out;
}

TRANSFERLIB_API std::vector<DarknetSection> darknet_sections(std::string_view cfg, std::string_view where);

/// Reads a section's lines as numbers within bounds.
class DarknetReader {
 public:
  DarknetReader(const DarknetSection& section, std::string_view where) : section_(section), where_(where) {}

  /// Where the section is, for sentences: "yolo.cfg:17: [route]".
  std::string place() const { return text(where_, ":", section_.line, ": [", section_.type, "]"); }

  const DarknetOption* find(std::string_view key) const {
    for (const DarknetOption& o : section_.options)
      if (o.key == key) return &o;
    return nullptr;
  }
  bool has(std::string_view key) const { return find(key) != nullptr; }

  Index whole(std::string_view key, Index otherwise, Index least, Index most) const;
  /// The same for what has no default.
  Index needed(std::string_view key, Index least, Index most) const {
    if (!has(key)) throw FormatError(text(place(), " has no line ", key, "=…, without which it can't be built"));
    return whole(key, 0, least, most);
  }
  bool flag(std::string_view key, bool otherwise = false) const {
    return whole(key, otherwise ? 1 : 0, -1000000, 1000000) != 0;
  }
  double real(std::string_view key, double otherwise, double least, double most) const;
  std::string word(std::string_view key, std::string_view otherwise) const {
    const DarknetOption* o = find(key);
    return std::string(o == nullptr ? otherwise : std::string_view(o->value));
  }

  /// Numbers with commas between; none where there is no such line.
  template <class Number>
  std::vector<Number> list(std::string_view key) const {
    std::vector<Number> out;
    const DarknetOption* o = find(key);
    if (o == nullptr) return out;
    std::string_view rest = o->value;
    for (bool more = true; more;) {
      const std::size_t comma = std::min(rest.find(','), rest.size());
      out.push_back(number<Number>(*o, rest.substr(0, comma), "a list of numbers with commas between"));
      more = comma < rest.size();
      rest.remove_prefix(std::min(comma + 1, rest.size()));
    }
    return out;
  }

  /// The layers that a route or shortcut takes: from the file's first where not negative, from here backwards else.
  std::vector<Index> layers(std::string_view key, Index here) const;

  /// Refuses a key whose meaning would be lost.
  void refuse(std::initializer_list<std::string_view> keys) const {
    for (const std::string_view key : keys)
      if (const DarknetOption* o = find(key); o != nullptr && o->value != "0" && o->value != "none")
        throw FormatError(text(place_of(*o), in_quotes(text(key, "=", o->value)),
                               " is not implemented; without it the layer would compute something else"));
  }

  /// The layer's activation. \throws FormatError for one that is not known; darknet would take ReLU
  std::string activation(std::string_view otherwise) const;

 private:
  std::string place_of(const DarknetOption& o) const { return text(where_, ":", o.line, ": [", section_.type, "] "); }

  template <class Number>
  Number number(const DarknetOption& o, std::string_view value, std::string_view kind) const {
    Number out{};
    if (value.starts_with('+')) value.remove_prefix(1);
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), out);
    bool good = error == std::errc() && end == value.data() + value.size();
    if constexpr (!std::is_integral_v<Number>) good = good && std::isfinite(out);
    if (!good)
      throw FormatError(
          text(place_of(o), in_quotes(text(o.key, "=", o.value)), " can't be read: ", kind, " is wanted"));
    return out;
  }

  const DarknetSection& section_;
  std::string_view where_;
};

// What no layer has more of; keeps all products of sizes countable.
inline constexpr Index darknet_most_channels = Index{1} << 20, darknet_most_side = Index{1} << 16,
                       darknet_most_layers = Index{1} << 14, darknet_most_numbers = Index{1} << 32;

/// The type of a section. \throws FormatError if it is not known
TRANSFERLIB_API DarknetType darknet_type(const DarknetReader& read, const std::string& name);

TRANSFERLIB_API void darknet_detection(DarknetLayer& l, const DarknetReader& read);

/// A section as a layer: number `here`.
TRANSFERLIB_API DarknetLayer darknet_layer(const DarknetSection& section, std::string_view where, Index here,
                                           std::vector<std::string>& notes);

inline std::string darknet_place(const DarknetConfig& config, const DarknetLayer& l) {
  return text(config.where, ":", l.line, ": [", to_string(l.type), "]");
}

inline std::string darknet_text(const DarknetShape& s) { return text(s.channels, " x ", s.height, " x ", s.width); }

/// What a layer gives, from what it is given and what the layers before it gave.
TRANSFERLIB_API DarknetShape darknet_shape(const DarknetConfig& config, const DarknetLayer& l, DarknetShape x,
                                           const std::vector<DarknetShape>& before);

}  // namespace detail

/// What every layer of a network gives, for an input of this shape.
/// \throws FormatError with file and line where layers do not fit each other, or the input is too small
inline std::vector<DarknetShape> darknet_shapes(const DarknetConfig& config, const DarknetShape& input) {
  std::vector<DarknetShape> out;
  for (const DarknetLayer& l : config.layers)
    out.push_back(detail::darknet_shape(config, l, out.empty() ? input : out.back(), out));
  return out;
}

/// A run of floats in a `.weights` file: which tensor it is, under the name and in the shape that the network has it.
struct DarknetBlob {
  std::string name;
  std::vector<Index> shape;
  Index layer = 0;
  Index count = 0;
  bool of_connected = false;  ///< a matrix that old files hold transposed
};

/// All tensors of a network in the order of its file, named `LAYER.conv.TENSOR` (or `bn`, `connected`, `local`): of
/// each layer the bias, of a normalised one scale, mean and variance too, and the weights, which only `[connected]` has
/// second. \throws FormatError where the network has more than 2^32 numbers
TRANSFERLIB_API std::vector<DarknetBlob> darknet_blobs(const DarknetConfig& config);

/// Reads a `.cfg`. Layers have darknet's defaults; unknown layers, and what would change their numbers and is not
/// implemented, are refused. \param where the file's name, for the error's sentence \throws FormatError with file and
/// line
TRANSFERLIB_API DarknetConfig parse_darknet_cfg(std::string_view cfg, std::string_view where);

/// The same of a file. \throws FileError, FormatError
inline DarknetConfig read_darknet_cfg(const std::filesystem::path& path) {
  return parse_darknet_cfg(read_file(path), path.string());
}

/// A `.cfg` that reads as this one does: all of its lines but comments.
TRANSFERLIB_API std::string darknet_text(const DarknetConfig& config);

/// The network cut behind its first `layers` layers.
/// \throws OptionError if it has not so many
TRANSFERLIB_API DarknetConfig cut_darknet(DarknetConfig config, Index layers);

/// What stands before the floats of a `.weights` file: the version of the program that wrote it, and how many pictures
/// it had seen in training.
struct DarknetHeader {
  std::int32_t major = 0, minor = 2, revision = 5;
  std::uint64_t seen = 0;

  /// How many bytes it has in a file: 20, and 16 in files before version 0.2.
  std::size_t size() const { return std::int64_t{major} * 10 + minor >= 2 ? 20 : 16; }
  /// Whether matrices of `[connected]` lie transposed, as in files of the first versions that were for a GPU.
  bool transposed() const { return major > 1000 || minor > 1000; }
};

/// What of a file and a network may differ in length.
struct DarknetWeightsOptions {
  bool longer = false;  ///< the file may go on behind the network, to the end of a layer of its `.cfg`
  Index least = -1;     ///< the file may end behind this many layers, or any later one; -1: not before the network does
};

/// Whether bytes look like a `.weights` file, which has no mark of its own: a version and a count that can be.
TRANSFERLIB_API bool is_darknet_weights(std::span<const std::byte> bytes);

/// Reads the header of a `.weights` file. \param where the file's name, for the error's sentence
/// \throws FormatError if it is cut or no header
TRANSFERLIB_API DarknetHeader parse_darknet_header(std::span<const std::byte> bytes, std::string_view where);

/// Reads the bytes of a `.weights` file: tensors under the names of `darknet_blobs`, which look into `bytes`. Files
/// have no names or sizes of their own, so the whole network's must be known, and the count must be exact. \throws
/// FormatError where the file has more or fewer floats than `options` allow: the sentence has both counts
TRANSFERLIB_API Checkpoint parse_darknet_weights(std::span<const std::byte> bytes, std::string_view where,
                                                 const DarknetConfig& config,
                                                 const DarknetWeightsOptions& options = {});

/// Opens a `.weights` file; it is mapped, not read. \throws FileError, FormatError
TRANSFERLIB_API Checkpoint open_darknet_weights(const std::filesystem::path& path, const DarknetConfig& config,
                                                const DarknetWeightsOptions& options = {});

/// Writes a `.weights` file of the network's layers, atomically: what `open_darknet_weights` reads, byte for byte.
/// \param tensors those of `darknet_blobs`, in any order; others are not written
/// \throws WeightsError if one is missing or not float32; FileError
TRANSFERLIB_API void write_darknet_weights(const std::filesystem::path& path, const DarknetConfig& config,
                                           std::span<const TensorView> tensors, const DarknetHeader& header = {});

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::vector<DarknetSection> darknet_sections(std::string_view cfg, std::string_view where) {
  if (cfg.starts_with("\xEF\xBB\xBF")) cfg.remove_prefix(3);
  std::vector<DarknetSection> out;
  Index number = 0;
  while (!cfg.empty()) {
    const std::size_t end = std::min(cfg.find('\n'), cfg.size());
    const std::string line = darknet_strip(cfg.substr(0, end));
    cfg.remove_prefix(std::min(end + 1, cfg.size()));
    ++number;
    if (line.empty()) continue;
    if (line[0] == '[') {
      if (line.size() < 3 || line.back() != ']' || line.find(']') != line.size() - 1)
        throw FormatError(text(where, ":", number, ": ", in_quotes(line), " begins a section and must be as [net]"));
      out.push_back({line.substr(1, line.size() - 2), number, {}});
      continue;
    }
    const std::size_t equals = line.find('=');
    if (equals == 0 || equals == std::string::npos)
      throw FormatError(text(where, ":", number, ": ", in_quotes(line),
                             " is no line of a .cfg, which are [section], key=value and # comments"));
    if (out.empty())
      throw FormatError(text(where, ":", number, ": ", in_quotes(line),
                             " stands before the first section; a .cfg begins with [net]"));
    out.back().options.push_back({line.substr(0, equals), line.substr(equals + 1), number});
  }
  return out;
}

TRANSFERLIB_API Index DarknetReader::whole(std::string_view key, Index otherwise, Index least, Index most) const {
  const DarknetOption* o = find(key);
  if (o == nullptr) return otherwise;
  const Index n = number<Index>(*o, o->value, "a whole number");
  if (n < least || n > most)
    throw FormatError(text(place_of(*o), key, "=", n, " is not possible: it must be from ", least, " to ", most));
  return n;
}

TRANSFERLIB_API double DarknetReader::real(std::string_view key, double otherwise, double least, double most) const {
  const DarknetOption* o = find(key);
  if (o == nullptr) return otherwise;
  const double x = number<double>(*o, o->value, "a number");
  if (!(x >= least && x <= most))
    throw FormatError(text(place_of(*o), key, "=", x, " is not possible: it must be from ", least, " to ", most));
  return x;
}

TRANSFERLIB_API std::vector<Index> DarknetReader::layers(std::string_view key, Index here) const {
  if (!has(key)) throw FormatError(text(place(), " has no line ", key, "=…, which tells the layers that it takes"));
  std::vector<Index> out = list<Index>(key);
  for (Index& n : out) {
    const Index asked = n;
    if (n < 0) n = n < -here ? -1 : here + n;
    if (n < 0 || n >= here)
      throw FormatError(text(place_of(*find(key)), key, "=", asked, " is no layer before this one, which is layer ",
                             here, "; the first is 0"));
  }
  return out;
}

TRANSFERLIB_API std::string DarknetReader::activation(std::string_view otherwise) const {
  const std::string name = word("activation", otherwise);
  static const std::vector<std::string> known{"linear", "leaky", "relu", "relu6", "mish", "swish", "logistic", "tanh"};
  if (std::find(known.begin(), known.end(), name) == known.end())
    throw FormatError(text(place_of(*find("activation")), "the activation ", in_quotes(name), " is not one of ",
                           first_few(known, known.size())));
  return name;
}

TRANSFERLIB_API DarknetType darknet_type(const DarknetReader& read, const std::string& name) {
  constexpr std::pair<std::string_view, std::string_view> shorts[] = {
      {"conv", "convolutional"}, {"conn", "connected"}, {"max", "maxpool"}, {"avg", "avgpool"}, {"soft", "softmax"}};
  std::string_view full = name;
  for (const auto& s : shorts)
    if (name == s.first) full = s.second;
  std::vector<std::string> names;
  for (int t = 0; t <= static_cast<int>(DarknetType::cost); ++t) {
    names.emplace_back(to_string(static_cast<DarknetType>(t)));
    if (names.back() == full) return static_cast<DarknetType>(t);
  }
  throw FormatError(
      text(read.place(), " is a layer that is not known here; those that are: ", first_few(names, names.size())));
}

TRANSFERLIB_API void darknet_detection(DarknetLayer& l, const DarknetReader& read) {
  l.classes = read.whole("classes", 20, 1, darknet_most_channels);
  const Index pairs = read.whole("num", 1, 1, 4096);
  l.boxes = pairs;
  if (l.type == DarknetType::region) l.coordinates = read.whole("coords", 4, 1, 64);
  if (l.type == DarknetType::detection) {
    l.coordinates = read.whole("coords", 1, 1, 64);
    l.side = read.whole("side", 7, 1, darknet_most_side);
    l.softmax = read.flag("softmax");
    return;
  }
  l.anchors = read.list<double>("anchors");
  if (l.anchors.size() % 2 != 0 || (!l.anchors.empty() && static_cast<Index>(l.anchors.size() / 2) < pairs))
    throw FormatError(text(read.place(), ": anchors has ", l.anchors.size(), " numbers, and ", pairs,
                           " anchors (num) need a width and a height each"));
  if (l.type == DarknetType::region) {
    read.refuse({"tree"});
    l.softmax = read.flag("softmax");
    l.background = read.flag("background");
    return;
  }
  l.mask = read.list<Index>("mask");
  for (const Index m : l.mask)
    if (m < 0 || m >= pairs)
      throw FormatError(text(read.place(), ": mask names anchor ", m, ", and there are ", pairs, " (num), from 0"));
  if (!l.mask.empty()) l.boxes = static_cast<Index>(l.mask.size());
  l.scale_x_y = read.real("scale_x_y", 1.0, 0.0, 1000.0);
  l.new_coordinates = read.flag("new_coords");
}

TRANSFERLIB_API DarknetLayer darknet_layer(const DarknetSection& section, std::string_view where, Index here,
                                           std::vector<std::string>& notes) {
  const DarknetReader read(section, where);
  DarknetLayer l;
  l.type = darknet_type(read, section.type);
  l.line = section.line;
  l.options = section.options;
  const auto window = [&](Index size) {
    l.stride = read.whole("stride", 1, 1, 1024);
    for (const char* one : {"stride_x", "stride_y"})
      if (read.whole(one, l.stride, 1, 1024) != l.stride)
        throw FormatError(text(read.place(), ": stride_x and stride_y must be equal to stride"));
    l.size = read.whole("size", size, 1, 1024);
  };
  switch (l.type) {
    case DarknetType::convolutional:
      read.refuse({"antialiasing", "share_index", "binary", "xnor", "bin_output", "sway", "rotate", "stretch",
                   "stretch_sway", "flipped", "dot", "coordconv", "reverse", "dontload", "dontloadscales"});
      [[fallthrough]];
    case DarknetType::local:
      l.filters = read.needed("filters", 1, darknet_most_channels);
      window(1);
      if (l.type == DarknetType::convolutional) {
        l.groups = read.whole("groups", 1, 1, darknet_most_channels);
        l.dilation = l.size == 1 ? 1 : read.whole("dilation", 1, 1, 1024);
        l.padding = read.flag("pad") ? l.size / 2 : read.whole("padding", 0, 0, 1024);
        l.batch_normalize = read.flag("batch_normalize") || read.flag("cbn");
        if (l.dilation > 1 && 2 * l.padding != l.size - 1)
          throw FormatError(text(read.place(), ": with dilation=", l.dilation,
                                 " darknet is only consistent for an odd size with pad=1"));
      } else {
        l.padding = read.flag("pad") ? 1 : 0;
        if (l.padding != 0 && l.size != 3)
          throw FormatError(text(read.place(), ": with pad=1 darknet is only consistent for size=3"));
      }
      l.activation = read.activation("logistic");
      break;
    case DarknetType::connected:
      read.refuse({"dontload", "dontloadscales"});
      l.filters = read.needed("output", 1, darknet_most_channels);
      l.batch_normalize = read.flag("batch_normalize");
      l.activation = read.activation("logistic");
      break;
    case DarknetType::maxpool:
      read.refuse({"antialiasing", "maxpool_depth"});
      window(read.whole("stride", 1, 1, 1024));
      l.padding = read.whole("padding", l.size - 1, 0, 1024);
      break;
    case DarknetType::avgpool:
    case DarknetType::batchnorm:
      break;
    case DarknetType::shortcut:
      read.refuse({"weights_type"});
      l.from = read.layers("from", here);
      l.activation = read.activation("linear");
      break;
    case DarknetType::route:
      l.from = read.layers("layers", here);
      l.groups = read.whole("groups", 1, 1, darknet_most_channels);
      l.group_id = read.whole("group_id", 0, 0, darknet_most_channels);
      if (l.group_id >= l.groups)
        throw FormatError(
            text(read.place(), ": group_id=", l.group_id, " is not one of ", l.groups, " groups, which count from 0"));
      break;
    case DarknetType::upsample:
      l.stride = read.whole("stride", 2, 1, 1024);
      l.scale = read.real("scale", 1.0, -1e6, 1e6);
      break;
    case DarknetType::reorg:
    case DarknetType::reorg3d:
      read.refuse({"reverse"});
      l.stride = read.whole("stride", 1, 1, 1024);
      break;
    case DarknetType::dropout:
      l.probability = read.real("probability", 0.2, 0.0, 1.0);
      if (read.flag("dropblock"))
        notes.push_back(text(read.place(), ": dropblock is dropout of single values here; evaluation is the same"));
      break;
    case DarknetType::softmax:
      read.refuse({"tree", "spatial"});
      l.groups = read.whole("groups", 1, 1, darknet_most_channels);
      l.scale = read.real("temperature", 1.0, 1e-6, 1e6);
      break;
    case DarknetType::crop:
      l.crop_width = read.needed("crop_width", 1, darknet_most_side);
      l.crop_height = read.needed("crop_height", 1, darknet_most_side);
      l.shifts = !read.flag("noadjust");
      notes.push_back(text(read.place(), " does nothing: the preprocessing gives what it would cut out"));
      break;
    case DarknetType::yolo:
    case DarknetType::region:
    case DarknetType::detection:
      darknet_detection(l, read);
      break;
    case DarknetType::cost:
      break;
  }
  return l;
}

TRANSFERLIB_API DarknetShape darknet_shape(const DarknetConfig& config, const DarknetLayer& l, DarknetShape x,
                                           const std::vector<DarknetShape>& before) {
  const auto refuse = [&](const auto&... why) { throw FormatError(text(darknet_place(config, l), ": ", why...)); };
  const auto slide = [&](Index padding) {
    for (Index* side : {&x.height, &x.width}) {
      if (*side + padding < l.size)
        refuse("a window of ", l.size, " does not fit into a map of ", *side, " and padding of ", padding,
               " in all; the input is too small");
      *side = (*side + padding - l.size) / l.stride + 1;
    }
  };
  switch (l.type) {
    case DarknetType::convolutional:
      if (x.channels % l.groups != 0 || l.filters % l.groups != 0)
        refuse("groups=", l.groups, " does not divide its ", x.channels, " input channels and ", l.filters, " filters");
      [[fallthrough]];
    case DarknetType::local:
      slide(2 * l.padding);
      x.channels = l.filters;
      break;
    case DarknetType::connected:
      x = {l.filters, 1, 1};
      break;
    case DarknetType::maxpool:
      slide(l.padding);
      break;
    case DarknetType::avgpool:
      x = {x.channels, 1, 1};
      break;
    case DarknetType::shortcut:
      for (const Index f : l.from) {
        const DarknetShape& other = before[static_cast<std::size_t>(f)];
        // A larger map is sampled, as darknet's ResNets have it; more or fewer channels: those that both have.
        if (other.height % x.height != 0 || other.height / x.height * x.width != other.width)
          refuse("adds layer ", f, " of ", darknet_text(other), " to ", darknet_text(x),
                 "; its sides must be equal, or multiples");
      }
      break;
    case DarknetType::route: {
      DarknetShape out = before[static_cast<std::size_t>(l.from[0])];
      out.channels = 0;
      for (const Index f : l.from) {
        const DarknetShape& other = before[static_cast<std::size_t>(f)];
        if (other.height != out.height || other.width != out.width)
          refuse("joins layer ", f, " of ", darknet_text(other), " and maps of ", out.height, " x ", out.width,
                 "; their sides must be equal");
        if (other.channels % l.groups != 0)
          refuse("groups=", l.groups, " does not divide the ", other.channels, " channels of layer ", f);
        out.channels += other.channels / l.groups;
      }
      x = out;
      break;
    }
    case DarknetType::upsample:
      x.height *= l.stride;
      x.width *= l.stride;
      break;
    case DarknetType::reorg:
    case DarknetType::reorg3d: {
      const Index all = l.stride * l.stride;
      if (x.height % l.stride != 0 || x.width % l.stride != 0 ||
          (l.type == DarknetType::reorg && x.channels % all != 0))
        refuse("stride=", l.stride, " does not fit a map of ", darknet_text(x),
               ": it must divide the sides, and its square the channels");
      x = {x.channels * all, x.height / l.stride, x.width / l.stride};
      break;
    }
    case DarknetType::softmax:
      if (multiply(x.channels, x.height * x.width) % l.groups != 0)
        refuse("groups=", l.groups, " does not divide its ", darknet_text(x), " inputs");
      break;
    case DarknetType::yolo:
    case DarknetType::region:
      if (const Index wanted = l.boxes * (l.coordinates + 1 + l.classes); x.channels != wanted)
        refuse("takes ", x.channels, " channels, and ", l.boxes, " boxes of ", l.coordinates,
               " numbers, objectness and ", l.classes, " classes need ", wanted,
               "; set the filters of the layer before");
      break;
    case DarknetType::detection:
      if (const Index wanted = l.side * l.side * (l.boxes * (l.coordinates + 1) + l.classes);
          x.channels * x.height * x.width != wanted)
        refuse("takes ", x.channels * x.height * x.width, " values, and ", l.side, " x ", l.side, " places of ",
               l.boxes, " boxes and ", l.classes, " classes need ", wanted);
      break;
    case DarknetType::dropout:
    case DarknetType::batchnorm:
    case DarknetType::crop:
    case DarknetType::cost:
      break;
  }
  if (x.channels > darknet_most_channels || x.height > darknet_most_side || x.width > darknet_most_side)
    refuse("would give ", darknet_text(x), " values a picture, more than is possible here");
  return x;
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API std::vector<DarknetBlob> darknet_blobs(const DarknetConfig& config) {
  using detail::text;
  const std::vector<DarknetShape> shapes = darknet_shapes(config, config.input);
  std::vector<DarknetBlob> out;
  Index sum = 0;
  for (std::size_t n = 0; n < config.layers.size(); ++n) {
    const DarknetLayer& l = config.layers[n];
    const DarknetShape x = n == 0 ? config.input : shapes[n - 1], &y = shapes[n];
    const auto add = [&](const char* what, std::vector<Index> shape, bool of_connected = false) {
      const Index count = detail::count_of(shape);
      if (count < 0 || count > detail::darknet_most_numbers - sum)
        throw FormatError(text(detail::darknet_place(config, l), ": with this layer the network has more than ",
                               detail::darknet_most_numbers, " weights; the file is damaged"));
      sum += count;
      out.push_back({text(n, ".", what), std::move(shape), static_cast<Index>(n), count, of_connected});
    };
    const auto norm = [&] {
      for (const char* what : {"bn.weight", "bn.running_mean", "bn.running_var"}) add(what, {y.channels});
    };
    switch (l.type) {
      case DarknetType::convolutional:
        add(l.batch_normalize ? "bn.bias" : "conv.bias", {l.filters});
        if (l.batch_normalize) norm();
        add("conv.weight", {l.filters, x.channels / l.groups, l.size, l.size});
        break;
      case DarknetType::connected:
        add(l.batch_normalize ? "bn.bias" : "connected.bias", {l.filters});
        add("connected.weight", {l.filters, x.channels * x.height * x.width}, true);
        if (l.batch_normalize) norm();
        break;
      case DarknetType::batchnorm:
        add("bn.bias", {y.channels});
        norm();
        break;
      case DarknetType::local:
        add("local.bias", {l.filters, y.height, y.width});
        add("local.weight", {y.height * y.width, l.filters, x.channels * l.size * l.size});
        break;
      default:
        break;
    }
  }
  return out;
}

TRANSFERLIB_API DarknetConfig parse_darknet_cfg(std::string_view cfg, std::string_view where) {
  using detail::text;
  const auto sections = detail::darknet_sections(cfg, where);
  if (sections.empty() || (sections[0].type != "net" && sections[0].type != "network"))
    throw FormatError(sections.empty() ? text(where, ": there is no section in it; a darknet .cfg begins with [net]")
                                       : text(where, ":", sections[0].line, ": [", sections[0].type,
                                              "] comes first; a .cfg begins with [net]"));
  const detail::DarknetReader read(sections[0], where);
  DarknetConfig out;
  out.where = where;
  out.net = sections[0].options;
  out.input = {read.whole("channels", 3, 1, 1024), read.needed("height", 1, detail::darknet_most_side),
               read.needed("width", 1, detail::darknet_most_side)};
  if (static_cast<Index>(sections.size()) - 1 > detail::darknet_most_layers || sections.size() < 2)
    throw FormatError(text(where, ": the network has ", sections.size() - 1, " layers; 1 to ",
                           detail::darknet_most_layers, " are possible"));
  for (std::size_t s = 1; s < sections.size(); ++s)
    out.layers.push_back(detail::darknet_layer(sections[s], where, static_cast<Index>(s) - 1, out.notes));
  out.used = static_cast<Index>(out.layers.size());
  darknet_blobs(out);
  return out;
}

TRANSFERLIB_API std::string darknet_text(const DarknetConfig& config) {
  std::string out = "[net]\n";
  const auto lines = [&](const std::vector<DarknetOption>& options) {
    for (const DarknetOption& o : options) out += detail::text(o.key, "=", o.value, "\n");
  };
  lines(config.net);
  for (const DarknetLayer& l : config.layers) {
    out += detail::text("\n[", to_string(l.type), "]\n");
    lines(l.options);
  }
  return out;
}

TRANSFERLIB_API DarknetConfig cut_darknet(DarknetConfig config, Index layers) {
  if (layers < 1 || layers > static_cast<Index>(config.layers.size()))
    throw OptionError(detail::text("the network of ", config.where, " can't be cut to ", layers, " layers: it has ",
                                   config.layers.size()));
  config.used = layers;
  return config;
}

TRANSFERLIB_API bool is_darknet_weights(std::span<const std::byte> bytes) {
  if (bytes.size() < 16) return false;
  std::int32_t version[3];
  std::memcpy(version, bytes.data(), sizeof version);
  return std::all_of(version, version + 3, [](std::int32_t n) { return n >= 0 && n < 2000; }) &&
         (version[0] != 0 || version[1] != 0 || version[2] != 0);
}

TRANSFERLIB_API DarknetHeader parse_darknet_header(std::span<const std::byte> bytes, std::string_view where) {
  using detail::text;
  if (!is_darknet_weights(bytes))
    throw FormatError(text(where,
                           ": it does not begin as darknet's .weights do, with a version and a count in 16 or 20 "
                           "bytes; the file is cut or of another format"));
  DarknetHeader out;
  std::memcpy(&out.major, bytes.data(), 4);
  std::memcpy(&out.minor, bytes.data() + 4, 4);
  std::memcpy(&out.revision, bytes.data() + 8, 4);
  if (bytes.size() < out.size())
    throw FormatError(text(where, ": the header of version ", out.major, ".", out.minor, " has ", out.size(),
                           " bytes, and the file ", bytes.size(), "; it is cut, copy it again"));
  std::memcpy(&out.seen, bytes.data() + 12, out.size() - 12);
  return out;
}

TRANSFERLIB_API Checkpoint parse_darknet_weights(std::span<const std::byte> bytes, std::string_view where,
                                                 const DarknetConfig& config, const DarknetWeightsOptions& options) {
  using detail::text;
  const DarknetHeader header = parse_darknet_header(bytes, where);
  const auto floats = bytes.subspan(header.size());
  const auto has = static_cast<Index>(floats.size() / 4);
  const std::vector<DarknetBlob> blobs = darknet_blobs(config);

  // Where the file may end: behind which layers, and how many floats that is.
  Index needed = 0, sum = 0;
  std::vector<Index> ends;
  for (std::size_t b = 0; b < blobs.size(); ++b) {
    sum += blobs[b].count;
    if (blobs[b].layer < config.used) needed = sum;
    if (b + 1 == blobs.size() || blobs[b + 1].layer != blobs[b].layer) ends.push_back(sum);
  }
  Index least = needed;
  if (options.least >= 0) {
    least = 0;
    for (const DarknetBlob& b : blobs)
      if (b.layer < std::min(options.least, config.used)) least += b.count;
  }
  const bool at_end = has == 0 || std::find(ends.begin(), ends.end(), has) != ends.end();
  if (floats.size() % 4 != 0 || has < least || (has > needed && !options.longer) || (has != needed && !at_end)) {
    std::string fix = has < needed ? "; the file is cut, or of another network" : "; it is of another network";
    if (has < needed && at_end && floats.size() % 4 == 0)
      fix = "; it is of another network, or of the first layers only, which can be asked for";
    throw FormatError(text(where, ": the file has ", has, " floats", floats.size() % 4 != 0 ? " and a part of one" : "",
                           " behind its header, and the ", config.used, " layers of ", config.where, " need ", needed,
                           fix));
  }
  Checkpoint out;
  out.format = "darknet";
  Index at = 0;
  for (std::size_t b = 0; b < blobs.size() && at < has; ++b) {
    if (blobs[b].layer >= config.used) break;
    TensorView view;
    view.name = blobs[b].name;
    view.shape = blobs[b].shape;
    view.strides = detail::contiguous_strides(view.shape);
    if (blobs[b].of_connected && header.transposed()) view.strides = {1, view.shape[0]};
    view.storage = floats.subspan(static_cast<std::size_t>(4 * at), static_cast<std::size_t>(4 * blobs[b].count));
    view.storage_id = b;
    at += blobs[b].count;
    out.tensors.push_back(std::move(view));
  }
  return out;
}

TRANSFERLIB_API Checkpoint open_darknet_weights(const std::filesystem::path& path, const DarknetConfig& config,
                                                const DarknetWeightsOptions& options) {
  const auto file = MappedFile::open(path);
  Checkpoint out = parse_darknet_weights(file->bytes(), path.string(), config, options);
  out.owner = file;
  return out;
}

TRANSFERLIB_API void write_darknet_weights(const std::filesystem::path& path, const DarknetConfig& config,
                                           std::span<const TensorView> tensors, const DarknetHeader& header) {
  using detail::text;
  AtomicFile file(path);
  file.write(std::as_bytes(std::span(&header.major, 1)));
  file.write(std::as_bytes(std::span(&header.minor, 1)));
  file.write(std::as_bytes(std::span(&header.revision, 1)));
  file.write(std::as_bytes(std::span(&header.seen, 1)).first(header.size() - 12));
  for (const DarknetBlob& blob : darknet_blobs(config)) {
    if (blob.layer >= config.used) break;
    const auto found =
        std::find_if(tensors.begin(), tensors.end(), [&](const TensorView& t) { return t.name == blob.name; });
    if (found == tensors.end() || found->dtype != DType::f32 || found->shape != blob.shape)
      throw WeightsError(
          text("the weights of ", config.where, " can't be written: the tensor ", blob.name,
               found == tensors.end() ? " is missing" : " has not the shape and type (float32) of its layer"));
    TensorView view = *found;
    if (blob.of_connected && header.transposed()) {
      std::swap(view.shape[0], view.shape[1]);
      std::swap(view.strides[0], view.strides[1]);
    }
    detail::for_contiguous(view, [&](std::span<const std::byte> run) { file.write(run); });
  }
  file.commit();
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES
