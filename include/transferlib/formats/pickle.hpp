/// \file
/// A restricted unpickler: what `torch.save` writes, in protocols 1 to 5, becomes a tree of plain values. Nothing in a
/// file can run: a global is a name, and what is made of one that is not on the list below is an opaque record, which
/// tells its class and its attributes. The opcodes are those of Python's `pickletools`.
#pragma once

#include <array>
#include <bit>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/formats/tensor_view.hpp>

namespace transferlib {

/// What a global of a pickle stands for.
enum class PickleGlobal : std::uint8_t {
  dict,              ///< OrderedDict, defaultdict, Counter
  rebuild_tensor,    ///< (storage, offset, shape, strides)
  rebuild_tensor_2,  ///< … + (requires_grad, hooks[, metadata])
  rebuild_tensor_3,  ///< … + (requires_grad, hooks, dtype[, metadata])
  rebuild_parameter,
  rebuild_from_type,
  typed_storage,
  untyped_storage,
  dtype,
  size,
  sequence,  ///< set, list, tuple …
  other,     ///< harmless, and no value here
  unknown    ///< a class or function that is not on the list: a name, and nothing else
};

/// The values of one pickle. They are few and small (at most 40 bytes of memory a byte of the pickle), and look into
/// its bytes, which must outlive them. A value may be part of several others, and of itself: who walks counts his
/// steps.
class Pickle {
 public:
  /// A value's number.
  using Ref = std::uint32_t;
  /// What a value is, and by which of the functions below it is read.
  enum class Kind : std::uint8_t {
    none,
    boolean,     ///< `integer`
    integer,     ///< `integer`
    real,        ///< `real`
    string,      ///< `string`: UTF-8, not checked
    bytes,       ///< `string`; also an integer of more than 64 bits, little-endian
    list,        ///< `items`; also sets
    tuple,       ///< `items`
    dict,        ///< `items`: key, value, key, value …
    global,      ///< `global`, `dtype`, `name`
    call,        ///< `items`: what is called (a global), the tuple of arguments, and what `object` has
    object,      ///< `items`: its class (a global, unknown), the tuple of arguments, and what it was given later: its
                 ///< attributes and the items of a class that is a dictionary (a dict each), those of a list (a list)
    persistent,  ///< `items`: the id
  };

  Ref root() const { return root_; }
  /// Bytes that the pickle took, its STOP included.
  std::size_t size() const { return size_; }
  /// The values are numbered from 0.
  std::size_t count() const { return nodes_.size(); }

  /// What a value is.
  Kind kind(Ref r) const { return nodes_[r].kind; }
  /// The number of a boolean or an integer.
  std::int64_t integer(Ref r) const { return nodes_[r].number; }
  /// The number of a real.
  double real(Ref r) const { return std::bit_cast<double>(nodes_[r].number); }
  /// The bytes of a string or of bytes; they live as long as the pickle's do.
  std::string_view string(Ref r) const {
    const Node& n = nodes_[r];
    if (n.kind != Kind::string && n.kind != Kind::bytes) return {};
    return {reinterpret_cast<const char*>(bytes_.data()) + n.number, n.size};
  }
  /// What a global is called: "torch.FloatStorage"; empty for every other value.
  std::string name(Ref r) const;
  /// Of a global; `other` for every other value.
  PickleGlobal global(Ref r) const {
    return nodes_[r].kind == Kind::global ? globals()[nodes_[r].size].role : PickleGlobal::other;
  }
  /// Of a global that is a typed storage or a dtype.
  DType dtype(Ref r) const { return globals()[nodes_[r].size].dtype; }

  /// How many items a container has; a dictionary's keys and values both count.
  std::size_t items(Ref r) const { return is_container(nodes_[r].kind) ? nodes_[r].size : 0; }
  /// Calls `take(ref)` for each item; returns early when that returns false.
  template <class Take>
  void for_items(Ref r, Take&& take) const {
    if (!is_container(nodes_[r].kind)) return;
    std::uint32_t at = first(nodes_[r]);
    for (std::size_t n = nodes_[r].size; n-- > 0; at = cells_[at].next)
      if (!take(cells_[at].value)) return;
  }
  /// Calls `take(key, value)` for each pair of a dictionary; returns early when that returns false.
  template <class Take>
  void for_pairs(Ref r, Take&& take) const {
    if (kind(r) != Kind::dict) return;
    std::uint32_t at = first(nodes_[r]);
    for (std::size_t n = nodes_[r].size / 2; n-- > 0;) {
      const Cell key = cells_[at], value = cells_[key.next];
      if (!take(key.value, value.value)) return;
      at = value.next;
    }
  }
  /// The first items of a container; the rest of `N` is -1.
  template <std::size_t N>
  std::array<std::int64_t, N> first_items(Ref r) const {
    std::array<std::int64_t, N> out;
    out.fill(-1);
    std::size_t n = 0;
    for_items(r, [&](Ref item) {
      out[n++] = item;
      return n < N;
    });
    return out;
  }

  /// Parses one pickle from the beginning of `bytes`.
  /// \param where the file's name, for the error's sentence
  /// \param offset where `bytes` begin in that file, for the same
  /// \throws FormatError: cut or damaged
  static Pickle parse(std::span<const std::byte> bytes, std::string_view where, std::uint64_t offset = 0) {
    Pickle out;
    Machine machine(out, bytes, where, offset);
    machine.run();
    return out;
  }

 private:
  struct Node {
    Kind kind = Kind::none;
    std::uint32_t size = 0;  // items, bytes, or the global's number
    // The number itself, where a string begins, the first and the last cell, or an unknown global's module and name.
    std::int64_t number = 0;
  };
  struct Cell {
    Ref value = 0;
    std::uint32_t next = 0;
  };
  struct Global {
    std::string_view name;
    PickleGlobal role;
    DType dtype = DType::u8;
  };

  static bool is_container(Kind k) {
    return k == Kind::list || k == Kind::tuple || k == Kind::dict || k == Kind::call || k == Kind::object ||
           k == Kind::persistent;
  }
  static std::uint32_t first(const Node& n) {
    return static_cast<std::uint32_t>(static_cast<std::uint64_t>(n.number) >> 32);
  }
  static std::uint32_t last(const Node& n) { return static_cast<std::uint32_t>(n.number); }
  static std::int64_t both(std::uint32_t first, std::uint32_t last) {
    return static_cast<std::int64_t>((static_cast<std::uint64_t>(first) << 32) | last);
  }

  /// The globals that are known; the first stands for all others.
  static std::span<const Global> globals();

  /// Python's pickle machine: a stack, marks in it, and a memo.
  class Machine {
   public:
    Machine(Pickle& out, std::span<const std::byte> bytes, std::string_view where, std::uint64_t offset);

    void run() {
      while (step(byte())) op_at_ = at_;
      out_.root_ = pop();
      if (!stack_.empty() || !marks_.empty()) fail("ends with ", stack_.size(), " values too many on its stack");
      out_.size_ = at_;
    }

   private:
    // References and places have 32 bits; a checkpoint's pickle has some 100 bytes a tensor.
    static constexpr std::size_t most_bytes = std::size_t{1} << 29;

    template <class... Parts>
    [[noreturn]] void fail(const Parts&... parts) const {
      throw FormatError(text_(where_, ": the pickle at byte ", offset_ + op_at_, " ", parts...));
    }
    template <class... Parts>
    static std::string text_(const Parts&... parts) {
      return detail::text(parts...);
    }

    std::string_view take(std::uint64_t n);
    unsigned char byte() { return static_cast<unsigned char>(take(1)[0]); }
    template <class Number>
    Number number() {
      Number out{};
      std::memcpy(&out, take(sizeof out).data(), sizeof out);
      return out;
    }
    std::string_view line();

    Node& node(Ref r) { return out_.nodes_[r]; }
    Ref make(Kind kind, std::uint32_t size, std::int64_t number_) {
      out_.nodes_.push_back({kind, size, number_});
      return static_cast<Ref>(out_.nodes_.size() - 1);
    }
    bool push(Ref r) {
      stack_.push_back(r);
      return true;
    }
    bool push(Kind kind, std::uint32_t size, std::int64_t number_) { return push(make(kind, size, number_)); }
    bool push_string(std::string_view s, Kind kind = Kind::string) {
      return push(kind, static_cast<std::uint32_t>(s.size()), s.data() - reinterpret_cast<const char*>(bytes_.data()));
    }
    bool push_integer(std::int64_t n) { return push(Kind::integer, 0, n); }
    bool push_real(double d) { return push(Kind::real, 0, std::bit_cast<std::int64_t>(d)); }

    Ref top() {
      if (stack_.size() == (marks_.empty() ? 0 : marks_.back()))
        fail("wants a value, and its stack has none; the file is damaged");
      return stack_.back();
    }
    Ref pop() {
      const Ref r = top();
      stack_.pop_back();
      return r;
    }
    void append(Ref container, Ref item);
    /// Where the values above the last mark begin; the mark is gone.
    std::size_t mark() {
      if (marks_.empty()) fail("wants a mark, and there is none; the file is damaged");
      const std::size_t at = marks_.back();
      marks_.pop_back();
      return at;
    }
    /// Moves all values from `from` on into a container.
    void gather(Ref container, std::size_t from) {
      for (std::size_t i = from; i < stack_.size(); ++i) append(container, stack_[i]);
      stack_.resize(from);
    }
    bool push_gathered(Kind kind, std::size_t from) {
      const Ref r = make(kind, 0, 0);
      if (kind == Kind::dict && (stack_.size() - from) % 2 != 0) fail("has a key without a value; the file is damaged");
      gather(r, from);
      return push(r);
    }
    bool push_tuple(std::size_t n) {
      const std::size_t lowest = marks_.empty() ? 0 : marks_.back();
      if (stack_.size() - lowest < n) fail("wants ", n, " values, and its stack has fewer; the file is damaged");
      return push_gathered(Kind::tuple, stack_.size() - n);
    }
    /// Puts the values above `from` into the container below them.
    bool extend(Kind kind, std::size_t from);

    bool get(std::uint64_t slot) {
      if (slot >= memo_.size() || memo_[static_cast<std::size_t>(slot)] == unset)
        fail("asks for memo ", slot, ", which was never put; the file is damaged");
      return push(memo_[static_cast<std::size_t>(slot)]);
    }
    bool put(std::uint64_t slot);

    /// A little-endian number in two's complement, of any length.
    bool push_long(std::string_view b);
    bool push_decimal(std::string_view s);
    std::uint32_t signed_size() {
      const auto n = number<std::int32_t>();
      if (n < 0) fail("has a length of ", n, "; the file is damaged");
      return static_cast<std::uint32_t>(n);
    }

    Ref string_of(std::string_view s) {
      push_string(s);
      return pop();
    }
    /// \param module, name strings
    bool global(Ref module, Ref name);
    /// Whether a value is a record of something unknown.
    bool is_opaque(Ref r) {
      const Node& n = node(r);
      return n.kind == Kind::object ||
             (n.kind == Kind::call && out_.global(out_.cells_[first(n)].value) == PickleGlobal::unknown);
    }
    /// REDUCE and NEWOBJ: nothing is called, so the call is a value like any other.
    bool call(Kind kind);

    /// Does one opcode; false at STOP.
    bool step(unsigned char op);

    static constexpr Ref unset = 0xFFFFFFFF;
    Pickle& out_;
    std::span<const std::byte> bytes_;
    std::string_view where_;
    std::uint64_t offset_;
    std::size_t at_ = 0, op_at_ = 0;
    std::vector<Ref> stack_, memo_;
    std::vector<std::size_t> marks_;
  };

  std::span<const std::byte> bytes_;
  std::deque<Node> nodes_;  // in blocks: no copy of all of them when they grow
  std::deque<Cell> cells_;
  Ref root_ = 0;
  std::size_t size_ = 0;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API std::string Pickle::name(Ref r) const {
  const Node& n = nodes_[r];
  if (n.kind != Kind::global) return {};
  if (n.size != 0) return std::string(globals()[n.size].name);
  // Its module and its name are values too.
  return detail::text(string(first(n)), ".", string(last(n)));
}

TRANSFERLIB_API std::span<const Pickle::Global> Pickle::globals() {
  using G = PickleGlobal;
  static constexpr Global known[] = {
      {"", G::unknown},
      {"collections.OrderedDict", G::dict},
      {"collections.defaultdict", G::dict},
      {"collections.Counter", G::dict},
      {"builtins.dict", G::dict},
      {"torch._utils._rebuild_tensor", G::rebuild_tensor},
      {"torch._utils._rebuild_tensor_v2", G::rebuild_tensor_2},
      {"torch._utils._rebuild_tensor_v3", G::rebuild_tensor_3},
      {"torch._utils._rebuild_parameter", G::rebuild_parameter},
      {"torch._utils._rebuild_parameter_with_state", G::rebuild_parameter},
      {"torch.nn.parameter.Parameter", G::rebuild_parameter},
      {"torch._tensor._rebuild_from_type_v2", G::rebuild_from_type},
      {"torch.Tensor", G::other},
      {"torch.Size", G::size},
      {"torch.device", G::other},
      {"torch.serialization._get_layout", G::other},
      {"torch.storage.UntypedStorage", G::untyped_storage},
      {"torch.storage._UntypedStorage", G::untyped_storage},
      {"torch.UntypedStorage", G::untyped_storage},
      {"builtins.set", G::sequence},
      {"builtins.frozenset", G::sequence},
      {"builtins.list", G::sequence},
      {"builtins.tuple", G::sequence},
      {"builtins.int", G::other},
      {"builtins.float", G::other},
      {"builtins.bool", G::other},
      {"builtins.str", G::other},
      {"builtins.complex", G::other},
      {"builtins.bytearray", G::other},
      {"_codecs.encode", G::other},
      {"torch.DoubleStorage", G::typed_storage, DType::f64},
      {"torch.FloatStorage", G::typed_storage, DType::f32},
      {"torch.HalfStorage", G::typed_storage, DType::f16},
      {"torch.BFloat16Storage", G::typed_storage, DType::bf16},
      {"torch.LongStorage", G::typed_storage, DType::i64},
      {"torch.IntStorage", G::typed_storage, DType::i32},
      {"torch.ShortStorage", G::typed_storage, DType::i16},
      {"torch.CharStorage", G::typed_storage, DType::i8},
      {"torch.ByteStorage", G::typed_storage, DType::u8},
      {"torch.BoolStorage", G::typed_storage, DType::boolean},
      {"torch.ComplexFloatStorage", G::typed_storage, DType::c64},
      {"torch.ComplexDoubleStorage", G::typed_storage, DType::c128},
      {"torch.float64", G::dtype, DType::f64},
      {"torch.float32", G::dtype, DType::f32},
      {"torch.float16", G::dtype, DType::f16},
      {"torch.bfloat16", G::dtype, DType::bf16},
      {"torch.int64", G::dtype, DType::i64},
      {"torch.int32", G::dtype, DType::i32},
      {"torch.int16", G::dtype, DType::i16},
      {"torch.int8", G::dtype, DType::i8},
      {"torch.uint64", G::dtype, DType::u64},
      {"torch.uint32", G::dtype, DType::u32},
      {"torch.uint16", G::dtype, DType::u16},
      {"torch.uint8", G::dtype, DType::u8},
      {"torch.bool", G::dtype, DType::boolean},
      {"torch.complex64", G::dtype, DType::c64},
      {"torch.complex128", G::dtype, DType::c128},
      {"torch.float8_e4m3fn", G::dtype, DType::f8_e4m3},
      {"torch.float8_e5m2", G::dtype, DType::f8_e5m2},
      {"torch.float8_e4m3fnuz", G::dtype, DType::f8_e4m3fnuz},
      {"torch.float8_e5m2fnuz", G::dtype, DType::f8_e5m2fnuz},
      {"torch.float8_e8m0fnu", G::dtype, DType::f8_e8m0},
  };
  return known;
}

TRANSFERLIB_API Pickle::Machine::Machine(Pickle& out, std::span<const std::byte> bytes, std::string_view where,
                                         std::uint64_t offset)
    : out_(out), bytes_(bytes), where_(where), offset_(offset) {
  if (bytes_.size() > most_bytes) bytes_ = bytes_.first(most_bytes);
  out_.bytes_ = bytes_;
  out_.nodes_.resize(4);  // none, false, true, ()
  out_.nodes_[1].kind = out_.nodes_[2].kind = Kind::boolean;
  out_.nodes_[2].number = 1;
  out_.nodes_[3].kind = Kind::tuple;
}

TRANSFERLIB_API std::string_view Pickle::Machine::take(std::uint64_t n) {
  if (n > bytes_.size() - at_)
    fail("needs ", n, " bytes more, and ", bytes_.size() - at_, " are left; the file is cut or damaged");
  const std::string_view out(reinterpret_cast<const char*>(bytes_.data()) + at_, static_cast<std::size_t>(n));
  at_ += static_cast<std::size_t>(n);
  return out;
}

TRANSFERLIB_API std::string_view Pickle::Machine::line() {
  const std::string_view rest(reinterpret_cast<const char*>(bytes_.data()) + at_, bytes_.size() - at_);
  const std::size_t end = rest.find('\n');
  if (end == std::string_view::npos) fail("has a line without an end; the file is cut or damaged");
  at_ += end + 1;
  return rest.substr(0, end);
}

TRANSFERLIB_API void Pickle::Machine::append(Ref container, Ref item) {
  Node& n = node(container);
  const auto cell = static_cast<std::uint32_t>(out_.cells_.size());
  out_.cells_.push_back({item, 0});
  const std::uint32_t head = n.size == 0 ? cell : first(n);
  if (n.size != 0) out_.cells_[last(n)].next = cell;
  n.number = both(head, cell);
  ++n.size;
}

TRANSFERLIB_API bool Pickle::Machine::extend(Kind kind, std::size_t from) {
  if (from == (marks_.empty() ? 0 : marks_.back())) fail("has nothing to add to; the file is damaged");
  Ref container = stack_[from - 1];
  if (is_opaque(container)) {
    const Ref inside = make(kind, 0, 0);
    append(container, inside);
    container = inside;
  }
  // The constant () is shared: it must stay empty.
  if (node(container).kind != kind)
    fail(kind == Kind::dict ? "sets an item of what is no dictionary" : "appends to what is no list",
         "; the file is damaged");
  if (kind == Kind::dict && (stack_.size() - from) % 2 != 0) fail("has a key without a value; the file is damaged");
  gather(container, from);
  return true;
}

TRANSFERLIB_API bool Pickle::Machine::put(std::uint64_t slot) {
  // Python numbers them from 0, and each PUT takes bytes.
  if (slot > bytes_.size()) fail("puts memo ", slot, " in ", bytes_.size(), " bytes; the file is damaged");
  if (slot >= memo_.size()) memo_.resize(static_cast<std::size_t>(slot) + 1, unset);
  memo_[static_cast<std::size_t>(slot)] = top();
  return true;
}

TRANSFERLIB_API bool Pickle::Machine::push_long(std::string_view b) {
  if (b.size() > 8) return push_string(b, Kind::bytes);
  std::uint64_t n = 0;
  for (std::size_t i = 0; i < b.size(); ++i)
    n |= static_cast<std::uint64_t>(static_cast<unsigned char>(b[i])) << (8 * i);
  if (!b.empty() && b.size() < 8 && (static_cast<unsigned char>(b.back()) & 0x80U) != 0)
    n |= ~std::uint64_t{0} << (8 * b.size());
  return push_integer(static_cast<std::int64_t>(n));
}

TRANSFERLIB_API bool Pickle::Machine::push_decimal(std::string_view s) {
  std::string_view digits = s;
  if (digits.ends_with('L')) digits.remove_suffix(1);
  std::int64_t n = 0;
  const auto r = std::from_chars(digits.data(), digits.data() + digits.size(), n);
  if (digits.empty() || r.ptr != digits.data() + digits.size())
    fail("has ", detail::in_quotes(s), " where a number belongs; the file is damaged");
  if (r.ec != std::errc()) return push_string(s, Kind::bytes);
  return push_integer(n);
}

TRANSFERLIB_API bool Pickle::Machine::global(Ref module, Ref name) {
  std::string_view m = out_.string(module);
  const std::string_view n = out_.string(name);
  if (m == "__builtin__") m = "builtins";
  // Storages that were saved on a GPU by old versions.
  if (m == "torch.cuda") m = "torch";
  for (std::size_t i = 1; i < globals().size(); ++i) {
    const std::string_view known = globals()[i].name;
    if (known.size() == m.size() + 1 + n.size() && known.starts_with(m) && known[m.size()] == '.' && known.ends_with(n))
      return push(Kind::global, static_cast<std::uint32_t>(i), 0);
  }
  return push(Kind::global, 0, both(module, name));
}

TRANSFERLIB_API bool Pickle::Machine::call(Kind kind) {
  const Ref arguments = pop(), callee = pop();
  if (node(callee).kind != Kind::global || node(arguments).kind != Kind::tuple)
    fail("calls what can't be called; the file is damaged");
  const PickleGlobal role = out_.global(callee);
  const bool empty = node(arguments).size == 0;
  if (role == PickleGlobal::dict) {
    const Ref argument = empty ? 0 : out_.cells_[first(node(arguments))].value;
    if (node(argument).kind == Kind::dict) return push(argument);  // Counter({…})
    const Ref out = make(Kind::dict, 0, 0);
    // Python 2's OrderedDict([[key, value], …]). Each pair is spent, so that no list is gone through twice.
    if (node(argument).kind == Kind::list) {
      Node& pairs = node(argument);
      std::uint32_t at = first(pairs);
      for (std::uint32_t n = pairs.size; n-- > 0; at = out_.cells_[at].next) {
        const Node pair = node(out_.cells_[at].value);
        if ((pair.kind != Kind::list && pair.kind != Kind::tuple) || pair.size != 2)
          fail("makes a dictionary of what are no pairs; the file is damaged");
        append(out, out_.cells_[first(pair)].value);
        append(out, out_.cells_[last(pair)].value);
      }
      pairs.size = 0;
    }
    return push(out);
  }
  if (role == PickleGlobal::size && !empty) {
    const Ref argument = out_.cells_[first(node(arguments))].value;
    if (node(argument).kind == Kind::tuple) return push(argument);
  }
  const Ref out = make(role == PickleGlobal::unknown ? kind : Kind::call, 0, 0);
  append(out, callee);
  append(out, arguments);
  return push(out);
}

TRANSFERLIB_API bool Pickle::Machine::step(unsigned char op) {
  switch (op) {
    case 0x80: {  // PROTO
      const unsigned version = byte();
      if (version > 5) fail("has protocol ", version, ", and 0 to 5 are known; the file is damaged");
      return true;
    }
    case 0x95: {  // FRAME
      const auto n = number<std::uint64_t>();
      if (n > bytes_.size() - at_)
        fail("has a frame of ", n, " bytes, and ", bytes_.size() - at_, " are left; the file is cut");
      return true;
    }
    case '.':
      return false;
    case '(':
      marks_.push_back(stack_.size());
      return true;
    case '0':  // POP
      if (!marks_.empty() && marks_.back() == stack_.size())
        marks_.pop_back();
      else
        pop();
      return true;
    case '1':  // POP_MARK
      stack_.resize(mark());
      return true;
    case '2':  // DUP
      return push(top());
    case 'N':
      return push(0);
    case 0x89:
      return push(1);
    case 0x88:
      return push(2);
    case ')':
      return push(3);
    case ']':
    case 0x8f:  // EMPTY_SET
      return push(Kind::list, 0, 0);
    case '}':
      return push(Kind::dict, 0, 0);
    case 'I': {  // INT, and the booleans of protocol 1
      const std::string_view s = line();
      if (s == "00" || s == "01") return push(s == "01" ? 2 : 1);
      return push_decimal(s);
    }
    case 'L':
      return push_decimal(line());
    case 'J':
      return push_integer(number<std::int32_t>());
    case 'K':
      return push_integer(byte());
    case 'M':
      return push_integer(number<std::uint16_t>());
    case 0x8a:  // LONG1
      return push_long(take(byte()));
    case 0x8b:  // LONG4
      return push_long(take(signed_size()));
    case 'G': {  // BINFLOAT, big-endian
      std::uint64_t n = 0;
      for (const char c : take(8)) n = (n << 8) | static_cast<unsigned char>(c);
      return push_real(std::bit_cast<double>(n));
    }
    case 'T':  // Python 2's str
      return push_string(take(signed_size()));
    case 'U':
    case 0x8c:
      return push_string(take(byte()));
    case 'X':
      return push_string(take(number<std::uint32_t>()));
    case 0x8d:
      return push_string(take(number<std::uint64_t>()));
    case 'B':
      return push_string(take(number<std::uint32_t>()), Kind::bytes);
    case 'C':
      return push_string(take(byte()), Kind::bytes);
    case 0x8e:
    case 0x96:  // BYTEARRAY8
      return push_string(take(number<std::uint64_t>()), Kind::bytes);
    case 't':
      return push_gathered(Kind::tuple, mark());
    case 'l':
    case 0x91:  // FROZENSET
      return push_gathered(Kind::list, mark());
    case 'd':
      return push_gathered(Kind::dict, mark());
    case 0x85:
    case 0x86:
    case 0x87:  // TUPLE1 to TUPLE3
      return push_tuple(op - 0x84U);
    case 'a':  // APPEND
      top();
      return extend(Kind::list, stack_.size() - 1);
    case 'e':   // APPENDS
    case 0x90:  // ADDITEMS
      return extend(Kind::list, mark());
    case 's': {  // SETITEM
      const std::size_t lowest = marks_.empty() ? 0 : marks_.back();
      if (stack_.size() - lowest < 3) fail("wants 3 values, and its stack has fewer; the file is damaged");
      return extend(Kind::dict, stack_.size() - 2);
    }
    case 'u':  // SETITEMS
      return extend(Kind::dict, mark());
    case 'h':
      return get(byte());
    case 'j':
      return get(number<std::uint32_t>());
    case 'q':
      return put(byte());
    case 'r':
      return put(number<std::uint32_t>());
    case 0x94:  // MEMOIZE
      return put(memo_.size());
    case 'c': {  // GLOBAL
      const Ref module = string_of(line());
      return global(module, string_of(line()));
    }
    case 0x93: {  // STACK_GLOBAL
      const Ref name = pop(), module = pop();
      if (node(name).kind != Kind::string || node(module).kind != Kind::string)
        fail("has a global whose name is no string; the file is damaged");
      return global(module, name);
    }
    case 'Q': {  // BINPERSID
      const Ref id = pop();
      // Files of whole modules in the legacy format name a class so: ("module", class, its source's file and text).
      const auto parts = out_.first_items<2>(id);
      if (parts[1] >= 0 && out_.string(static_cast<Ref>(parts[0])) == "module" &&
          node(static_cast<Ref>(parts[1])).kind == Kind::global)
        return push(static_cast<Ref>(parts[1]));
      const Ref out = make(Kind::persistent, 0, 0);
      append(out, id);
      return push(out);
    }
    case 'R':
      return call(Kind::call);
    case 0x81:  // NEWOBJ
      return call(Kind::object);
    case 'b': {  // BUILD: attributes; those of what is known, such as an OrderedDict's _metadata, are passed over
      const Ref state = pop(), r = top();
      if (is_opaque(r)) append(r, state);
      return true;
    }
    default:
      break;
  }
  constexpr std::string_view hex = "0123456789abcdef";
  fail("has the opcode 0x", hex[op >> 4], hex[op & 15],
       ", which torch.save does not write; the file is damaged, or no checkpoint");
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES
