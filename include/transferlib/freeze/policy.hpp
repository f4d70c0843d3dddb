/// \file
/// The one freezing mechanism: a rule says of each layer whether it is frozen.
///
/// Frozen means: no gradient, not in the optimiser, batch norm in evaluation whatever mode the rest is in, and every
/// parameter and buffer byte for byte the same after training.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <transferlib/core/concepts.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/core/text.hpp>

namespace transferlib {

/// Everything is frozen: the backbone is a fixed feature extractor.
struct FreezeAll {
  bool operator()(const Layer&) const { return true; }
};

/// Nothing is frozen: the whole network is fine-tuned.
struct FreezeNone {
  bool operator()(const Layer&) const { return false; }
};

/// Every layer before one is frozen: `FreezeUntil{100}` by the original's index (Keras's `fine_tune_at = 100`),
/// `FreezeUntil{"features.9"}` by name.
struct FreezeUntil {
  LayerRef layer;
  /// \throws OptionError if the network has no such layer.
  bool operator()(const Layer& l, const LayerTable& table) const { return l.index < layer.in(table); }
};

/// Every batch normalisation is frozen; usually joined with another rule by `||`.
struct FreezeBatchNorm {
  bool operator()(const Layer& l) const { return l.kind == Kind::norm; }
};

/// Layer by layer: what is true is frozen. As long as the layer table.
struct FreezeMask {
  std::vector<bool> mask;
  /// \throws OptionError if it is of another length than the network's layer table.
  bool operator()(const Layer& l, const LayerTable& table) const {
    if (mask.size() != table.rows.size())
      throw OptionError(detail::text("FreezeMask: the mask has ", mask.size(), " entries and the network ",
                                     table.rows.size(), " layers"));
    return mask[static_cast<std::size_t>(l.index)];
  }
};

/// Every layer whose dotted name matches a glob (`*`: any run of characters, `?`: one).
struct FreezeByName {
  std::string pattern;
  /// \throws OptionError if no layer of the network matches.
  bool operator()(const Layer& l, const LayerTable& table) const {
    if (l.index == 0) {
      bool any = false;
      for (const Layer& row : table.rows) any = any || detail::glob_matches(pattern, row.name);
      if (!any)
        throw OptionError(detail::text("FreezeByName: no layer's name matches \"", pattern, "\"; the first names are ",
                                       detail::first_few(names(table))));
    }
    return detail::glob_matches(pattern, l.name);
  }

 private:
  static std::vector<std::string> names(const LayerTable& table) {
    std::vector<std::string> out;
    for (const Layer& row : table.rows) out.push_back(row.name);
    return out;
  }
};

namespace detail {

template <FreezeRule R>
bool is_frozen(const R& rule, const Layer& layer, const LayerTable& table) {
  if constexpr (requires { rule(layer, table); })
    return rule(layer, table);
  else
    return rule(layer);
}

template <FreezeRule A, FreezeRule B>
struct FreezeBoth {
  A a;
  B b;
  bool operator()(const Layer& l, const LayerTable& t) const { return is_frozen(a, l, t) && is_frozen(b, l, t); }
};

template <FreezeRule A, FreezeRule B>
struct FreezeEither {
  A a;
  B b;
  bool operator()(const Layer& l, const LayerTable& t) const { return is_frozen(a, l, t) || is_frozen(b, l, t); }
};

template <FreezeRule A>
struct FreezeOthers {
  A a;
  bool operator()(const Layer& l, const LayerTable& t) const { return !is_frozen(a, l, t); }
};

}  // namespace detail

/// A rule whose type is chosen at run time.
class AnyRule {
 public:
  // Its own type is excluded first: whether an AnyRule is a rule depends on this constructor.
  template <class R>
  requires(!std::same_as<R, AnyRule> && FreezeRule<R>) AnyRule(R rule)
      : rule_([r = std::move(rule)](const Layer& l, const LayerTable& t) { return detail::is_frozen(r, l, t); }) {}
  bool operator()(const Layer& l, const LayerTable& t) const { return rule_(l, t); }

 private:
  std::function<bool(const Layer&, const LayerTable&)> rule_;
};

/// Frozen where both rules freeze.
template <FreezeRule A, FreezeRule B>
detail::FreezeBoth<A, B> operator&&(A a, B b) {
  return {std::move(a), std::move(b)};
}

/// Frozen where at least one of the rules freezes.
template <FreezeRule A, FreezeRule B>
detail::FreezeEither<A, B> operator||(A a, B b) {
  return {std::move(a), std::move(b)};
}

/// Frozen where the rule does not freeze.
template <FreezeRule A>
detail::FreezeOthers<A> operator!(A a) {
  return {std::move(a)};
}

/// A rule, as a model takes it. It is spent when it is applied: what remains is the mask of the model's layers.
template <class Rule>
struct FreezePolicy {
  static_assert(FreezeRule<Rule>,
                "transferlib: FreezePolicy<Rule>: Rule must be copyable and callable as bool(const Layer&) const or "
                "bool(const Layer&, const LayerTable&) const");
};

/// A policy of a rule that is one.
template <FreezeRule Rule>
struct FreezePolicy<Rule> {
  Rule rule{};

  /// Which rows of the table are frozen.
  std::vector<bool> mask(const LayerTable& table) const {
    std::vector<bool> out;
    for (const Layer& row : table.rows) out.push_back(detail::is_frozen(rule, row, table));
    return out;
  }
};

template <class Rule>
FreezePolicy(Rule) -> FreezePolicy<Rule>;

}  // namespace transferlib
