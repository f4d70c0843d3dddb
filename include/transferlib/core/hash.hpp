/// \file
/// SHA-256 (FIPS 180-4): the identity of weights, data and cached activations.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include <transferlib/core/separate.hpp>

namespace transferlib {

/// Computes SHA-256 of bytes that come piece by piece.
class Sha256 {
 public:
  /// Goes on with these bytes.
  Sha256& add(std::span<const std::byte> bytes);

  /// A text, behind its length: so that ("ab", "c") and ("a", "bc") differ.
  Sha256& add(std::string_view text) {
    add(static_cast<std::uint64_t>(text.size()));
    return add(std::as_bytes(std::span(text.data(), text.size())));
  }

  /// A number, as its bytes.
  template <class Number>
  requires std::is_arithmetic_v<Number> Sha256& add(Number number) {
    return add(std::as_bytes(std::span<const Number, 1>(&number, 1)));
  }

  /// The hash in lower-case hexadecimal, 64 characters. Ends the computation.
  std::string hex();

 private:
  static std::uint32_t rotate(std::uint32_t x, int n) { return (x >> n) | (x << (32 - n)); }

  void compress(const unsigned char* p);

  std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<unsigned char, 64> block_{};
  std::size_t filled_ = 0;
  std::uint64_t length_ = 0;
};

namespace detail {

/// A quick 64-bit checksum of some bytes, against damage, not against an adversary: four lanes of multiply and rotate.
TRANSFERLIB_API std::uint64_t checksum64(std::span<const std::byte> bytes);

}  // namespace detail

/// The SHA-256 of some bytes, in hexadecimal.
inline std::string sha256(std::span<const std::byte> bytes) { return Sha256().add(bytes).hex(); }

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API Sha256& Sha256::add(std::span<const std::byte> bytes) {
  length_ += bytes.size();
  if (filled_ != 0) {
    const std::size_t take = bytes.size() < 64 - filled_ ? bytes.size() : 64 - filled_;
    if (take != 0) std::memcpy(block_.data() + filled_, bytes.data(), take);
    filled_ += take;
    bytes = bytes.subspan(take);
    if (filled_ < 64) return *this;
    compress(block_.data());
    filled_ = 0;
  }
  while (bytes.size() >= 64) {
    compress(reinterpret_cast<const unsigned char*>(bytes.data()));
    bytes = bytes.subspan(64);
  }
  if (!bytes.empty()) std::memcpy(block_.data(), bytes.data(), bytes.size());
  filled_ = bytes.size();
  return *this;
}

TRANSFERLIB_API std::string Sha256::hex() {
  const std::uint64_t bits = length_ * 8;
  const unsigned char one = 0x80, zero = 0;
  add(std::as_bytes(std::span(&one, 1)));
  while (filled_ != 56) add(std::as_bytes(std::span(&zero, 1)));
  std::array<unsigned char, 8> tail{};
  for (std::size_t i = 0; i < 8; ++i) tail[i] = static_cast<unsigned char>(bits >> (56 - 8 * i));
  add(std::as_bytes(std::span(tail)));
  std::string out;
  for (std::uint32_t word : state_)
    for (int shift = 28; shift >= 0; shift -= 4) out += "0123456789abcdef"[(word >> shift) & 15U];
  return out;
}

TRANSFERLIB_API void Sha256::compress(const unsigned char* p) {
  static constexpr std::uint32_t k[64] = {
      0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
      0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
      0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
      0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
      0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
      0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
      0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
      0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
  std::uint32_t w[64];
  for (int i = 0; i < 16; ++i)
    w[i] = (static_cast<std::uint32_t>(p[4 * i]) << 24) | (static_cast<std::uint32_t>(p[4 * i + 1]) << 16) |
           (static_cast<std::uint32_t>(p[4 * i + 2]) << 8) | static_cast<std::uint32_t>(p[4 * i + 3]);
  for (int i = 16; i < 64; ++i)
    w[i] = w[i - 16] + (rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ (w[i - 15] >> 3)) + w[i - 7] +
           (rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ (w[i - 2] >> 10));
  auto [a, b, c, d, e, f, g, h] = state_;
  for (int i = 0; i < 64; ++i) {
    const std::uint32_t t1 = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + k[i] + w[i];
    const std::uint32_t t2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
  }
  const std::uint32_t add[8] = {a, b, c, d, e, f, g, h};
  for (std::size_t i = 0; i < 8; ++i) state_[i] += add[i];
}

}  // namespace transferlib

namespace transferlib::detail {

TRANSFERLIB_API std::uint64_t checksum64(std::span<const std::byte> bytes) {
  constexpr std::uint64_t prime = 0x9E3779B97F4A7C15ULL;
  std::array<std::uint64_t, 4> lane{prime, prime * 3, prime * 5, prime * 7};
  std::size_t at = 0;
  for (; bytes.size() - at >= 32; at += 32)
    for (std::size_t i = 0; i < 4; ++i) {
      std::uint64_t word = 0;
      std::memcpy(&word, bytes.data() + at + 8 * i, 8);
      lane[i] = (lane[i] ^ word) * prime;
      lane[i] = (lane[i] << 29) | (lane[i] >> 35);
    }
  std::uint64_t out = bytes.size();
  for (std::uint64_t l : lane) out = (out ^ l ^ (l >> 32)) * prime;
  for (; at < bytes.size(); ++at) out = (out ^ static_cast<std::uint64_t>(bytes[at])) * prime;
  return out ^ (out >> 32);
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES
