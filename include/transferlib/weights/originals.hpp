/// \file
/// A file of the same network by another program, or for another input, made a network's own.
#pragma once

#include <algorithm>
#include <iterator>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/nn/plan.hpp>
#include <transferlib/weights/state_dict.hpp>

namespace transferlib {
namespace detail {

/// How many of `names` the file has behind the prefix that fits most of them.
TRANSFERLIB_API std::pair<std::size_t, std::string> names_found(const std::vector<std::string>& names,
                                                                const std::map<std::string, Tensor>& file);

/// Whether two shapes are equal but for sides of 1.
TRANSFERLIB_API bool same_but_for_ones(at::IntArrayRef a, at::IntArrayRef b);

}  // namespace detail

/// The tensors of a file under the network's own names, where the file has those of another program that the network
/// knows (`Plan::convert`, `Plan::renamings`), and in the network's shapes, where they can be made so (`Plan::adapt`).
/// What fits neither is left as it is, for `load_state_dict` to complain of.
TRANSFERLIB_API StateDict as_own(const Plan& network, StateDict state);

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::pair<std::size_t, std::string> names_found(const std::vector<std::string>& names,
                                                                const std::map<std::string, Tensor>& file) {
  StateDict wanted;
  for (const std::string& name : names) wanted.emplace_back(name, Tensor());
  const std::string prefix = common_prefix(wanted, file);
  const auto found = std::count_if(names.begin(), names.end(),
                                   [&](const std::string& name) { return file.count(prefix + name) != 0; });
  return {static_cast<std::size_t>(found), prefix};
}

TRANSFERLIB_API bool same_but_for_ones(at::IntArrayRef a, at::IntArrayRef b) {
  const auto sides = [](at::IntArrayRef shape) {
    std::vector<Index> out;
    std::copy_if(shape.begin(), shape.end(), std::back_inserter(out), [](Index side) { return side != 1; });
    return out;
  };
  return sides(a) == sides(b);
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API StateDict as_own(const Plan& network, StateDict state) {
  network.convert(state);
  const std::map<std::string, Tensor> file(state.begin(), state.end());
  std::vector<std::string> own;
  std::map<std::string, Tensor> tensors;
  for (const auto& [name, tensor] : state_dict(network)) {
    own.push_back(name);
    tensors.emplace(name, tensor);
  }
  auto [most, prefix] = detail::names_found(own, file);
  std::map<std::string, std::string> ours;  // by theirs
  if (most < own.size())
    for (const Renaming& renaming : network.renamings()) {
      std::vector<std::string> theirs;
      for (const auto& pair : renaming.names) theirs.push_back(pair.second);
      const auto [count, their_prefix] = detail::names_found(theirs, file);
      if (count <= most) continue;
      most = count;
      prefix = their_prefix;
      ours.clear();
      for (const auto& pair : renaming.names) ours.emplace(prefix + pair.second, pair.first);
    }
  StateDict out;
  for (const auto& [name, tensor] : state) {
    const auto renamed = ours.find(name);
    std::string key = renamed != ours.end()                      ? renamed->second
                      : ours.empty() && name.starts_with(prefix) ? name.substr(prefix.size())
                                                                 : name;
    Tensor value = tensor;
    if (const auto found = tensors.find(key); found != tensors.end() && found->second.sizes() != tensor.sizes()) {
      const at::IntArrayRef shape = found->second.sizes();
      if (detail::same_but_for_ones(tensor.sizes(), shape))
        value = tensor.reshape(shape);
      else if (auto adapted = network.adapt(key, tensor, shape))
        value = *adapted;
    }
    out.emplace_back(std::move(key), std::move(value));
  }
  return out;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES
