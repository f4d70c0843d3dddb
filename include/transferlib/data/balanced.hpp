/// \file
/// Training on classes of unequal size as if they were equal: each class drawn as often, or each weighted. Without
/// LibTorch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/core/random.hpp>
#include <transferlib/core/separate.hpp>

namespace transferlib {
namespace detail {

/// The pictures of each class that there is.
TRANSFERLIB_API std::map<Index, std::vector<Index>> members(std::span<const Index> classes);

}  // namespace detail

/// The pictures of an epoch in a random order in which every class is there as often (within one picture), as many as
/// there are pictures. Each class is dealt from one shuffled deck, round and round through all epochs: within an epoch
/// no picture comes twice before all others of its class came, and every picture comes before one comes again in a
/// later epoch. A function of its arguments alone. \param classes the class of each picture, from 0; a class that no
/// picture has takes no part \param epoch counts the epochs \throws DataError
TRANSFERLIB_API std::vector<Index> balanced_order(std::span<const Index> classes, std::uint64_t seed,
                                                  std::uint64_t epoch);

/// Weights for `CrossEntropy{.class_weights = …}` by which every class counts the same: pictures / (classes x pictures
/// of the class), scikit-learn's "balanced".
/// \param classes the class of each picture; \param count how many classes there are
/// \throws DataError if a class has no picture, or a label is out of range
TRANSFERLIB_API std::vector<double> balanced_weights(std::span<const Index> classes, Index count);

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::map<Index, std::vector<Index>> members(std::span<const Index> classes) {
  std::map<Index, std::vector<Index>> out;
  for (std::size_t i = 0; i < classes.size(); ++i) {
    if (classes[i] < 0)
      throw DataError(text("picture ", i, " has the label ", classes[i], "; labels of classes are not negative"));
    out[classes[i]].push_back(static_cast<Index>(i));
  }
  if (out.empty()) throw DataError("there is no picture to balance");
  return out;
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API std::vector<Index> balanced_order(std::span<const Index> classes, std::uint64_t seed,
                                                  std::uint64_t epoch) {
  auto decks = detail::members(classes);
  const Index all = static_cast<Index>(classes.size()), kinds = static_cast<Index>(decks.size());
  // What does not divide goes to the classes in turn, from where the epoch before left off.
  const Index each = all / kinds, rest = all % kinds, round = static_cast<Index>(epoch % (1U << 20));
  std::vector<Index> drawn;
  drawn.reserve(classes.size());
  Index kind = 0;
  for (auto& [name, deck] : decks) {
    const Index size = static_cast<Index>(deck.size());
    // How many of this class were dealt before an epoch: a difference of two such is what the epoch deals.
    const auto dealt_before = [&](Index e) { return e * each + (e * rest + kinds - 1 - kind) / kinds; };
    const auto order = shuffled(size, seed, static_cast<std::uint64_t>(name), Purpose::balance);
    for (Index i = dealt_before(round); i < dealt_before(round + 1); ++i)
      drawn.push_back(deck[static_cast<std::size_t>(order[static_cast<std::size_t>(i % size)])]);
    ++kind;
  }
  std::vector<Index> out;
  out.reserve(drawn.size());
  for (Index i : shuffled(all, seed, epoch)) out.push_back(drawn[static_cast<std::size_t>(i)]);
  return out;
}

TRANSFERLIB_API std::vector<double> balanced_weights(std::span<const Index> classes, Index count) {
  std::vector<double> out(static_cast<std::size_t>(count > 0 ? count : 0), 0.0);
  const double all = static_cast<double>(classes.size()), kinds = static_cast<double>(count);
  for (const auto& [name, pictures] : detail::members(classes)) {
    if (name >= count) throw DataError(detail::text("label ", name, " is out of range: there are ", count, " classes"));
    out[static_cast<std::size_t>(name)] = all / (kinds * static_cast<double>(pictures.size()));
  }
  for (std::size_t c = 0; c < out.size(); ++c)
    if (out[c] == 0.0) throw DataError(detail::text("class ", c, " has no picture, so no weight makes up for it"));
  return out;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES
