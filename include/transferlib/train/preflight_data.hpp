/// \file
/// What preflight sees without a network: the pictures' range, layout and sameness, and the labels.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/hash.hpp>
#include <transferlib/core/random.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/data/preprocess.hpp>
#include <transferlib/train/source.hpp>

namespace transferlib {

/// How sure a finding is: `error` for what is proven to be wrong, `warning` for what the numbers speak against.
enum class Severity { warning, error };

/// Something that is wrong with a set-up before the first step of its training.
struct Finding {
  Severity severity = Severity::warning;
  std::string check;     ///< which of the checks found it: "range", "labels", "rate" …
  std::string sentence;  ///< the evidence, in numbers, and the fix
};

namespace detail {

using Findings = std::vector<Finding>;

/// A number with three digits, for a sentence.
inline std::string rounded(double x) {
  char buffer[32];
  return {buffer, std::to_chars(buffer, buffer + sizeof buffer, x, std::chars_format::general, 3).ptr};
}

/// A point in time that work does not go beyond.
class Deadline {
 public:
  explicit Deadline(double seconds)
      : end_(std::chrono::steady_clock::now() +
             std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(seconds))) {}
  bool passed() const { return std::chrono::steady_clock::now() >= end_; }

 private:
  std::chrono::steady_clock::time_point end_;
};

/// Some pictures of a data set, drawn by chance, and what they show.
struct Looked {
  const Source* source = nullptr;
  std::string name;           ///< "training", "validation"
  Index count = 0;            ///< pictures that were looked at
  std::vector<Tensor> input;  ///< as the network is given them; (n, C, size, size) each
  std::vector<Tensor> target;
  double low = std::numeric_limits<double>::infinity(), high = -low;
  double sum = 0.0, squares = 0.0, numbers = 0.0;   ///< of float32 pictures
  Index bytes = 0, floats = 0;                      ///< pictures of uint8, of float32
  Index constant = 0;                               ///< pictures of one value
  Index enlarged = 0;                               ///< pictures that are scaled by more than 8
  Index smallest = 0;                               ///< the shortest side of those
  std::set<std::uint64_t> different;                ///< their hashes
  Index coloured = 0, interleaved = 0, planar = 0;  ///< colour pictures whose layout was looked at; see there
};

/// The mean difference of neighbours of each picture, (n).
inline Tensor roughness(const Tensor& x) {
  const Index h = x.size(2), w = x.size(3);
  return (x.narrow(3, 1, w - 1) - x.narrow(3, 0, w - 1)).abs().mean({1, 2, 3}) +
         (x.narrow(2, 1, h - 1) - x.narrow(2, 0, h - 1)).abs().mean({1, 2, 3});
}

/// Counts the colour pictures that are much smoother when their numbers are read as R, G, B a pixel, or the other way:
/// the neighbours of a picture that is read in the wrong order are not neighbours.
TRANSFERLIB_API void look_at_layout(const Tensor& block, Looked& out);

/// Hashes of pictures: pixels and shape. Pictures of one value have none (0): two black ones are no copies.
TRANSFERLIB_API std::vector<std::uint64_t> hashes_of(const Batch& batch);

/// Looks at up to `most` pictures, as many as the time allows. What can't be a picture is a finding.
TRANSFERLIB_API Looked look(const Source& source, std::string name, const Preprocessing& p, Index channels, Index most,
                            std::uint64_t seed, const Deadline& deadline, const std::stop_token& stop,
                            Findings& findings);

/// Whether pictures are in the range that `Batch` says, and whether they are pictures at all.
TRANSFERLIB_API void check_range(const Looked& seen, const Preprocessing& p, Findings& findings);

/// Whether rows and channels are where they should be.
TRANSFERLIB_API void check_layout(const Looked& seen, Findings& findings);

/// Whether pictures are enlarged so much that the network sees little but blur.
TRANSFERLIB_API void check_size(const Looked& seen, const Preprocessing& p, Findings& findings);

/// The classes of a data set.
struct Classes {
  std::vector<Index> of;      ///< of each picture that was looked at, in order
  std::vector<Index> counts;  ///< by class; what is out of range is not in it
  bool complete = false;      ///< whether all pictures were looked at
};

/// Reads the classes, as many as the time allows, and refuses what is out of range. \returns nothing where they can't
/// be used
TRANSFERLIB_API std::optional<Classes> classes_of(const Source& source, std::string_view name, Index classes,
                                                  const Deadline& deadline, Findings& findings);

/// Whether every class is in both sets, and none too rare.
TRANSFERLIB_API void check_classes(const Classes& train, const Classes& val, const Labels& labels, bool balanced,
                                   Findings& findings);

/// Looks for pictures that are in both sets, and for equal ones with different labels, among as many as the time
/// allows. `classes` are empty where the targets are none.
TRANSFERLIB_API void check_copies(const Source& train, const Source& val, const std::vector<Index>& train_classes,
                                  const std::vector<Index>& val_classes, std::uint64_t seed, double seconds,
                                  const std::stop_token& stop, Findings& findings);

}  // namespace detail
}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API void look_at_layout(const Tensor& block, Looked& out) {
  const Index n = block.size(0), h = block.size(2), w = block.size(3);
  if (block.size(1) != 3 || h < 8 || w < 8) return;
  const Tensor x = block.to(at::kFloat).contiguous();
  const Tensor given = roughness(x), wanted = 0.6 * given;
  const auto smoother = [&](const Tensor& other) { return roughness(other).lt(wanted).sum().item<Index>(); };
  out.coloured += n;
  out.interleaved += smoother(x.view({n, h, w, 3}).permute({0, 3, 1, 2}));
  out.planar += smoother(x.permute({0, 2, 3, 1}).reshape({n, 3, h, w}));
}

TRANSFERLIB_API std::vector<std::uint64_t> hashes_of(const Batch& batch) {
  std::vector<std::uint64_t> out;
  for (const Tensor& block : batch.pictures) {
    const Tensor x = block.cpu().contiguous();
    const Tensor flat = x.flatten(1);
    const Tensor constant = flat.amax(1).eq(flat.amin(1));
    const auto* bytes = static_cast<const std::byte*>(x.const_data_ptr());
    const std::size_t size = x.nbytes() / static_cast<std::size_t>(std::max<Index>(x.size(0), 1));
    for (Index i = 0; i < x.size(0); ++i) {
      const std::uint64_t hash = checksum64({bytes + static_cast<std::size_t>(i) * size, size}) ^
                                 (static_cast<std::uint64_t>(x.size(2)) * 0x9E3779B97F4A7C15ULL);
      out.push_back(constant[i].item<bool>() ? 0 : std::max<std::uint64_t>(hash, 1));
    }
  }
  return out;
}

TRANSFERLIB_API Looked look(const Source& source, std::string name, const Preprocessing& p, Index channels, Index most,
                            std::uint64_t seed, const Deadline& deadline, const std::stop_token& stop,
                            Findings& findings) {
  Looked out;
  out.source = &source;
  out.name = std::move(name);
  const Index input = std::max<Index>(p.size * p.size * channels * 4, 1);
  most = std::min({most, source.size, std::max<Index>(32, (Index{256} << 20) / input)});
  auto ids = shuffled(source.size, seed, 0, Purpose::preflight);
  ids.resize(static_cast<std::size_t>(most));
  std::sort(ids.begin(), ids.end());
  // In an order that is spread over the data wherever it ends: class folders come class by class.
  const auto order = shuffled(most, seed, 1, Purpose::preflight);
  for (Index from = 0; from < most && (from == 0 || !deadline.passed()); from += 32) {
    if (stop.stop_requested()) throw Stopped("stopped before training, as asked");
    std::vector<Index> some;
    for (Index i = from; i < std::min(from + 32, most); ++i)
      some.push_back(ids[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])]);
    try {
      Batch batch = source.get(some);
      for (const Tensor& block : batch.pictures) {
        check_pictures(block);
        const Index c = block.size(1), h = block.size(2), w = block.size(3);
        if (c > 4 && c != channels && (w == 1 || w == 3 || w == 4)) {
          findings.push_back(
              {Severity::error, "layout",
               text("the ", out.name, " pictures have the shape ", shape_text(block), ", which is (N, ", c,
                    " channels, height ", h, ", width ", w,
                    "): they are channels last; give them as (N, C, H, W): pictures.permute({0, 3, 1, 2})")});
          return out;
        }
        const Tensor flat = block.flatten(1), low = flat.amin(1), high = flat.amax(1);
        out.low = std::min(out.low, low.min().item<double>());
        out.high = std::max(out.high, high.max().item<double>());
        out.constant += low.eq(high).sum().item<Index>();
        if (block.scalar_type() == at::kFloat) {
          out.floats += block.size(0);
          out.sum += flat.sum(at::kDouble).item<double>();
          out.squares += flat.to(at::kDouble).square().sum().item<double>();
          out.numbers += static_cast<double>(flat.numel());
        } else {
          out.bytes += block.size(0);
        }
        const double scale = static_cast<double>(p.size) / p.crop_fraction / static_cast<double>(std::min(h, w));
        if (scale > 8.0 + 1e-6) {
          out.enlarged += block.size(0);
          out.smallest = out.smallest == 0 ? std::min(h, w) : std::min({out.smallest, h, w});
        }
        if (out.coloured < 64) look_at_layout(block, out);
      }
      for (std::uint64_t hash : hashes_of(batch)) out.different.insert(hash);
      batch.pictures = {preprocess(batch, p, channels, some)};
      out.count += static_cast<Index>(some.size());
      out.input.push_back(std::move(batch.pictures[0]));
      out.target.push_back(std::move(batch.target));
    } catch (const Stopped&) {
      throw;
    } catch (const Error& e) {
      findings.push_back({Severity::error, "pictures", text("the ", out.name, " data: ", e.what())});
      out.input.clear();
      return out;
    }
  }
  return out;
}

TRANSFERLIB_API void check_range(const Looked& seen, const Preprocessing& p, Findings& findings) {
  if (seen.input.empty()) return;
  const auto found = [&](Severity severity, const char* check, std::string sentence) {
    findings.push_back({severity, check, text("the ", seen.name, " pictures ", sentence)});
  };
  const std::string range =
      text("lie between ", rounded(seen.low), " and ", rounded(seen.high), " (", seen.count, " were looked at)");
  const bool bytes = seen.floats == 0, floats = seen.bytes == 0;
  // Who neither subtracts nor divides may have prepared the pictures on their own, in any range.
  const bool own = p.mean == std::array<double, 3>{} && p.deviation == std::array<double, 3>{1.0, 1.0, 1.0};
  const double mean = seen.sum / std::max(seen.numbers, 1.0),
               deviation = std::sqrt(std::max(seen.squares / std::max(seen.numbers, 1.0) - mean * mean, 0.0));
  if (bytes && seen.high == 1.0 && seen.low == 0.0) {
    found(
        Severity::error, "range",
        text("are uint8 and ", range,
             ", where 0 … 255 is expected: they look like pictures in [0, 1] that were cast to bytes; multiply by 255 "
             "before the cast, or give them as float32"));
  } else if (floats && !own && seen.low >= -0.5 && seen.high > 16.0) {
    found(Severity::error, "range",
          text("are float32 and ", range, ", where [0, 1] is expected; divide them by 255, or give them as uint8"));
  } else if (floats && !own && seen.low < -0.5 && seen.low >= -1.001 && seen.high <= 1.001) {
    found(Severity::error, "range",
          text("are float32 and ", range,
               ", where [0, 1] is expected: they are scaled to [-1, 1] already, and the model does that itself; give "
               "(pictures + 1) / 2"));
  } else if (floats && !own && (seen.low < -0.5 || seen.high > 1.5)) {
    const bool normal = std::abs(mean) < 1.0 && deviation > 0.3 && deviation < 3.0 && seen.low < -0.5;
    found(Severity::error, "range",
          text("are float32, ", range, ", with the mean ", rounded(mean), " and the deviation ", rounded(deviation),
               ", where [0, 1] is expected",
               normal ? ": they are normalised already, and the model does that itself; give them as they were before"
                      : "; bring them to [0, 1]"));
  } else if (floats && seen.low >= 0.0 && seen.high > 0.0 && seen.high <= 1.0 / 255.0 + 1e-6) {
    found(Severity::error, "range",
          text("are float32 and ", range,
               ", where [0, 1] is expected: they were divided by 255 twice; divide them once, or give them as uint8"));
  }
  if (seen.count > 1 && seen.constant == seen.count)
    found(Severity::error, "constant",
          text("are blank: each of the ", seen.count, " that were looked at has one value only, between ",
               rounded(seen.low), " and ", rounded(seen.high), "; were they read as they should be?"));
  else if (seen.constant * 5 > seen.count)
    found(Severity::warning, "constant",
          text("are blank in part: ", seen.constant, " of ", seen.count,
               " that were looked at have one value only; were they read as they should be?"));
  else if (seen.count > 1 && seen.different.size() == 1)
    found(Severity::error, "constant",
          text("are all alike: ", seen.count,
               " were looked at, and each is the same picture; does the data set's "
               "batch() obey the numbers that it is given?"));
}

TRANSFERLIB_API void check_layout(const Looked& seen, Findings& findings) {
  const auto found = [&](Index n, const char* sentence) {
    if (n * 10 > seen.coloured * 9)
      findings.push_back({Severity::warning, "layout",
                          text("the ", seen.name, " pictures look scrambled: ", n, " of ", seen.coloured,
                               " that were looked at are far smoother when they are read ", sentence)});
  };
  if (seen.coloured < 2) return;
  found(seen.interleaved,
        "as R, G, B a pixel; where such bytes became a tensor, give it the shape (N, H, W, 3), then "
        "permute({0, 3, 1, 2})");
  found(seen.planar,
        "as a plane a channel; where such bytes became a tensor, give it the shape (N, 3, H, W), without permute");
}

TRANSFERLIB_API void check_size(const Looked& seen, const Preprocessing& p, Findings& findings) {
  if (seen.enlarged * 10 <= seen.count) return;
  findings.push_back({Severity::warning, "size",
                      text(seen.enlarged, " of ", seen.count, " ", seen.name,
                           " pictures that were looked at are enlarged more than 8 times: the shortest side is ",
                           seen.smallest, " pixels and the network's is ", p.size, "; a smaller size, as {.size = ",
                           std::max<Index>(32, 4 * seen.smallest), "}, is quicker and seldom worse")});
}

TRANSFERLIB_API std::optional<Classes> classes_of(const Source& source, std::string_view name, Index classes,
                                                  const Deadline& deadline, Findings& findings) {
  Classes out;
  out.counts.resize(static_cast<std::size_t>(classes));
  Index outside = 0, first = -1, low = std::numeric_limits<Index>::max(), high = std::numeric_limits<Index>::min();
  for (Index from = 0; from < source.size && (from == 0 || !deadline.passed()); from += 1024) {
    const auto ids = numbers(from, std::min(from + 1024, source.size));
    Tensor target;
    try {
      target = source.targets(ids).target;
    } catch (const Stopped&) {
      throw;
    } catch (const Error& e) {
      findings.push_back({Severity::error, "labels", text("the ", name, " data: ", e.what())});
      return std::nullopt;
    }
    if (!target.defined() || target.scalar_type() != at::kLong || target.dim() != 1 ||
        target.size(0) != static_cast<Index>(ids.size())) {
      findings.push_back(
          {Severity::error, "labels",
           text("the ", name, " data give for ", ids.size(), " pictures a target ",
                target.defined() ? text("of ", c10::toString(target.scalar_type()), " of shape ", shape_text(target))
                                 : std::string("that is undefined"),
                ", where class indices are wanted: int64, one a picture")});
      return std::nullopt;
    }
    target = target.cpu().contiguous();
    const Index* t = target.const_data_ptr<Index>();
    for (std::size_t i = 0; i < ids.size(); ++i) {
      low = std::min(low, t[i]);
      high = std::max(high, t[i]);
      if (t[i] >= 0 && t[i] < classes)
        ++out.counts[static_cast<std::size_t>(t[i])];
      else if (outside++ == 0)
        first = ids[i];
      out.of.push_back(t[i]);
    }
  }
  out.complete = static_cast<Index>(out.of.size()) == source.size;
  if (outside == 0) return out;
  std::string fix = "check how they are read";
  if (low == 1 && high == classes) fix = "they count from 1; subtract 1";
  if (low == -1 && high == classes - 2) fix = "they count from -1; add 1";
  findings.push_back(
      {Severity::error, "labels",
       text(outside, " of ", out.of.size(), " ", name, " pictures have a label out of range, first picture ", first,
            " with ", out.of[static_cast<std::size_t>(first)], ": labels lie between ", low, " and ", high,
            ", and the ", classes, " classes have the indices 0 to ", classes - 1, "; ", fix)});
  return std::nullopt;
}

TRANSFERLIB_API void check_classes(const Classes& train, const Classes& val, const Labels& labels, bool balanced,
                                   Findings& findings) {
  if (!train.complete || !val.complete) return;
  const auto lacks = [&](const Classes& c) {
    std::vector<std::string> out;
    for (std::size_t i = 0; i < labels.size(); ++i)
      if (c.counts[i] == 0) out.push_back(labels[i]);
    return out;
  };
  const auto no_train = lacks(train), no_val = lacks(val);
  if (labels.size() > 2 && no_train.size() == 1 && no_val.size() == 1 && train.counts[0] == 0 && val.counts[0] == 0) {
    findings.push_back({Severity::warning, "labels",
                        text("no picture of either set has the label 0 (\"", labels[0], "\"), and each of the other ",
                             labels.size() - 1, " occurs; if labels count from 1, subtract 1 and give one name less")});
    return;
  }
  const auto report = [&](const std::vector<std::string>& names, const Classes& c, const char* which, const char* fix) {
    if (names.empty()) return;
    findings.push_back({Severity::warning, "classes",
                        text("no ", which, " picture shows ", first_few(names), " (", c.of.size(), " pictures, ",
                             labels.size() - names.size(), " of ", labels.size(), " classes occur); ", fix)});
  };
  report(no_train, train, "training", "what is never shown can't be learnt: add pictures, or leave the class out");
  report(no_val, val, "validation",
         "the accuracy says nothing of it: draw the sets anew, so that each has all classes");
  if (balanced) return;
  std::size_t least = labels.size(), most = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    if (train.counts[i] > 0 && (least == labels.size() || train.counts[i] < train.counts[least])) least = i;
    if (train.counts[i] > train.counts[most]) most = i;
  }
  if (least == labels.size() || train.counts[most] <= 100 * train.counts[least]) return;
  findings.push_back({Severity::warning, "imbalance",
                      text("the training data have ", train.counts[most], " pictures of \"", labels[most], "\" and ",
                           train.counts[least], " of \"", labels[least],
                           "\", more than 100 to 1: a model that never says the latter has a low loss; train with "
                           "{.balanced = true}, or add pictures")});
}

TRANSFERLIB_API void check_copies(const Source& train, const Source& val, const std::vector<Index>& train_classes,
                                  const std::vector<Index>& val_classes, std::uint64_t seed, double seconds,
                                  const std::stop_token& stop, Findings& findings) {
  struct Seen {
    Index id, label;
    bool val;
  };
  std::unordered_map<std::uint64_t, Seen> known;
  Index looked[2] = {0, 0}, copies = 0, contradictions = 0;
  std::pair<Index, Index> copy, contradiction[2];
  std::string where[2];
  const auto scan = [&](const Source& source, const std::vector<Index>& classes, bool is_val,
                        const Deadline& deadline) {
    const auto order = shuffled(source.size, seed, 2, Purpose::preflight);
    for (Index from = 0; from < source.size && (from == 0 || !deadline.passed()); from += 256) {
      if (stop.stop_requested()) throw Stopped("stopped before training, as asked");
      std::vector<Index> ids(order.begin() + from, order.begin() + std::min(from + 256, source.size));
      std::sort(ids.begin(), ids.end());
      const auto hashes = hashes_of(source.get(ids));
      looked[is_val] += static_cast<Index>(ids.size());
      for (std::size_t i = 0; i < std::min(hashes.size(), ids.size()); ++i) {
        if (hashes[i] == 0) continue;
        const auto id = static_cast<std::size_t>(ids[i]);
        const Index label = id < classes.size() ? classes[id] : -1;
        const auto [at, fresh] = known.try_emplace(hashes[i], Seen{ids[i], label, is_val});
        if (fresh) continue;
        const Seen& other = at->second;
        if (other.val != is_val && copies++ == 0) copy = {ids[i], other.id};
        if (label >= 0 && other.label >= 0 && label != other.label && contradictions++ == 0) {
          contradiction[0] = {ids[i], label};
          contradiction[1] = {other.id, other.label};
          where[0] = is_val ? "validation" : "training";
          where[1] = other.val ? "validation" : "training";
        }
      }
    }
  };
  scan(val, val_classes, true, Deadline(0.3 * seconds));
  scan(train, train_classes, false, Deadline(0.7 * seconds));
  // A few there are in every large collection.
  const auto many = [](Index n, Index of) { return n > 2 && n * 200 > of; };
  const std::string among = text(" among ", looked[0], " of ", train.size, " training and ", looked[1], " of ",
                                 val.size, " validation pictures");
  if (many(copies, std::min(looked[0], looked[1])))
    findings.push_back({Severity::warning, "copies",
                        text(copies, among, " are in both sets, pixel by pixel, as training picture ", copy.first,
                             " and validation picture ", copy.second,
                             "; the validation figures will be too good: take them out of one set")});
  if (many(contradictions, looked[0] + looked[1]))
    findings.push_back(
        {Severity::warning, "copies",
         text(contradictions, among, " have the pixels of another and another label, as ", where[0], " picture ",
              contradiction[0].first, " (label ", contradiction[0].second, ") and ", where[1], " picture ",
              contradiction[1].first, " (label ", contradiction[1].second, "); check how the labels are read")});
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES
