// What frozen features give without gradient descent: LogME, ridge and logistic regression.
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <catch2/catch_approx.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <transferlib/core/error.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/probe/features.hpp>
#include <transferlib/probe/logistic.hpp>
#include <transferlib/probe/logme.hpp>
#include <transferlib/probe/ridge.hpp>

#include "folder.hpp"
#include "formula.hpp"

using namespace transferlib;
using Catch::Approx;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::WithinAbs;
using Catch::Matchers::WithinRel;
using toys::sentence_of;

namespace {

std::vector<double> uniforms(const std::string& name, Index count) {
  std::vector<double> out;
  for (Index i = 0; i < count; ++i) out.push_back(uniform(fnv1a(name), static_cast<std::uint64_t>(i)));
  return out;
}

/// As `task` of tests/parity/make_probe.py.
Features features_of(const std::string& name, Index n, Index d, Index classes, double apart, double scale) {
  const auto number = [](const std::vector<double>& v, Index i) { return v[static_cast<std::size_t>(i)]; };
  const auto draws = uniforms(name + ".y", n), means = uniforms(name + ".means", classes * d),
             noise = uniforms(name + ".x", n * d);
  Features out{at::empty({n, d}, at::kDouble), at::empty({n}, at::kLong), classes};
  for (Index i = 0; i < n; ++i) {
    const auto c = static_cast<Index>(number(draws, i) * static_cast<double>(classes));
    out.y[i] = c;
    for (Index j = 0; j < d; ++j)
      out.x[i][j] = scale * (number(noise, i * d + j) * 2.0 - 1.0 + apart * (number(means, c * d + j) * 2.0 - 1.0));
  }
  return out;
}

Features features_of(const std::string& name, const Json& task) {
  const auto shape = task["shape"].get<std::vector<Index>>();
  return features_of(name, shape[0], shape[1], shape[2], task["apart"].get<double>(), task["scale"].get<double>());
}

Features some() { return features_of("some", 40, 7, 3, 0.6, 1.0); }

double largest(const Tensor& t) { return t.abs().max().item<double>(); }

Tensor double_tensor(const Json& values) {
  return at::tensor(values.get<std::vector<double>>(), at::TensorOptions(at::kDouble));
}

}  // namespace

TEST_CASE("LogME is the maximum of the evidence", "[probe]") {
  const Json tasks = python("probe.json");
  for (const auto& [name, task] : tasks.members()) {
    INFO(name);
    const Features f = features_of(name, task);
    REQUIRE_THAT(largest(f.x.abs().sum()), WithinRel(task["x_sum"].get<double>(), 1e-12));
    const LogMe found = logme(f);
    CHECK_THAT(found.score, WithinAbs(task["logme"].get<double>(), 1e-8));
    const auto& wanted = task["evidence"].elements();
    REQUIRE(found.classes.size() == wanted.size());
    for (std::size_t c = 0; c < wanted.size(); ++c) {
      INFO("class " << c);
      CHECK_THAT(found.classes[c].log_evidence, WithinAbs(wanted[c]["log_evidence"].get<double>(), 1e-8));
      CHECK_THAT(found.classes[c].beta, WithinRel(wanted[c]["beta"].get<double>(), 1e-3));
      if (!wanted[c]["alpha"].is_null())
        CHECK_THAT(found.classes[c].alpha, WithinRel(wanted[c]["alpha"].get<double>(), 1e-3));
      else
        CHECK(found.classes[c].alpha > 1e9);  // the features say nothing
    }
  }
}

TEST_CASE("LogME does not see how features are scaled, turned, padded or ordered", "[probe]") {
  for (const Index d : {7, 60}) {
    const Features f = features_of("turned", 40, d, 3, 0.6, 1.0);
    const double score = logme(f).score;
    const auto same = [&](const Tensor& x, const Tensor& y) {
      CHECK_THAT(logme({x, y, 3}).score, WithinAbs(score, 1e-9));
    };
    same(f.x * 1e4, f.y);
    same(f.x * -1e-4, f.y);
    const Tensor turn = std::get<0>(at::linalg_qr(features_of("turn", d, d, 2, 0.0, 1.0).x));
    same(f.x.mm(turn), f.y);
    same(at::cat({f.x, at::zeros({40, 5}, at::kDouble)}, 1), f.y);
    same(f.x.flip(0), f.y.flip(0));
    // The names of classes mean nothing; one that has no picture does not count.
    same(f.x, 2 - f.y);
    const LogMe more = logme({f.x, f.y, 4});
    CHECK(more.score == Approx(score).epsilon(1e-12));
    CHECK(std::isnan(more.classes[3].log_evidence));
    CHECK(logme({f.x.to(at::kFloat), f.y}).score == Approx(score).margin(1e-5));
  }
}

TEST_CASE("LogME ranks what explains the classes above what does not", "[probe]") {
  double last = -std::numeric_limits<double>::infinity();
  for (const double apart : {0.0, 0.3, 0.6, 1.2, 2.4}) {
    const double score = logme(features_of("apart", 120, 16, 4, apart, 1.0)).score;
    CHECK(score > last);
    last = score;
  }
  // Features that hold the answer leave no noise: the evidence is large, and a number.
  const Features f = some();
  const LogMe exact = logme({at::one_hot(f.y, 3).to(at::kDouble), f.y, 3});
  CHECK(exact.score > 5.0);
  CHECK(std::isfinite(exact.score));
}

TEST_CASE("Leaving one out in closed form is leaving one out", "[probe]") {
  const Json tasks = python("probe.json");
  for (const auto& [name, task] : tasks.members()) {
    const Features f = features_of(name, task);
    std::vector<double> strengths;
    double best = 0.0;
    for (const Json& wanted : task["ridge"].elements()) {
      strengths.push_back(wanted["strength"].get<double>());
      best = std::max(best, wanted["accuracy"].get<double>());
      INFO(name << ", strength " << strengths.back());
      const RidgeProbe found = ridge_probe(f, {.strengths = {strengths.back()}});
      CHECK(found.strength == strengths.back());
      CHECK_THAT(found.penalty, WithinRel(wanted["penalty"].get<double>(), 1e-12));
      CHECK(found.accuracy == wanted["accuracy"].get<double>());
      CHECK_THAT(found.squared_error, WithinRel(wanted["squared_error"].get<double>(), 1e-8));
      if (const Json* values = wanted.find("held_out"))
        CHECK(largest(found.held_out.flatten() - double_tensor(*values)) < 1e-8);
    }
    INFO(name);
    const RidgeProbe chosen = ridge_probe(f, {.strengths = strengths});
    CHECK(chosen.accuracy == best);
    // Of equally good strengths, the one of the smallest error.
    double error = std::numeric_limits<double>::infinity(), strength = 0.0;
    for (std::size_t i = 0; i < strengths.size(); ++i) {
      const Json& wanted = task["ridge"].elements()[i];
      CHECK(chosen.accuracies.at(i) == wanted["accuracy"].get<double>());
      if (chosen.accuracies[i] == best && wanted["squared_error"].get<double>() < error)
        error = wanted["squared_error"].get<double>(), strength = strengths[i];
    }
    CHECK(chosen.strength == strength);
  }
}

TEST_CASE("The weights of a ridge are its minimum, and make a linear head", "[probe]") {
  for (const Index d : {7, 60}) {
    const Features f = features_of("minimum", 40, d, 3, 0.6, 1.0);
    const RidgeProbe ridge = ridge_probe(f);
    REQUIRE(ridge.weight.sizes() == at::IntArrayRef({3, d}));
    REQUIRE(ridge.bias.sizes() == at::IntArrayRef({3}));
    CHECK(ridge.weight.scalar_type() == at::kFloat);
    const Tensor w = ridge.weight.to(at::kDouble),
                 errors = at::linear(f.x, w, ridge.bias.to(at::kDouble)) - at::one_hot(f.y, 3).to(at::kDouble);
    // The gradient is nothing, up to the rounding of float32.
    CHECK(largest(errors.t().mm(f.x) + ridge.penalty * w) < 1e-5);
    CHECK(largest(errors.sum(0)) < 1e-5);
    CHECK(ridge.held_out.argmax(1).eq(f.y).to(at::kDouble).mean().item<double>() == Approx(ridge.accuracy));
  }
}

TEST_CASE("Ridge does not see scale or offset, and lives with useless features", "[probe]") {
  for (const Index d : {7, 60}) {
    const Features f = features_of("offset", 40, d, 3, 0.6, 1.0);
    const RidgeProbe ridge = ridge_probe(f);
    CHECK(largest(ridge_probe({f.x * 1e3, f.y}).held_out - ridge.held_out) < 1e-8);
    CHECK(largest(ridge_probe({f.x + 5.0, f.y}).held_out - ridge.held_out) < 1e-8);
    // A constant feature changes what the penalty's unit is told in, where there are fewer features than pictures.
    const Tensor constant = at::cat({f.x, at::full({40, 1}, 3.0, at::kDouble)}, 1);
    const double factor = d < 40 ? static_cast<double>(d) / static_cast<double>(d + 1) : 1.0;
    const RidgeProbe once = ridge_probe(f, {.strengths = {1e-2 * factor}}),
                     more = ridge_probe({constant, f.y}, {.strengths = {1e-2}});
    CHECK(largest(more.held_out - once.held_out) < 1e-8);
    CHECK(largest(more.weight.select(1, d)) < 1e-6);
    // Features twice are the same features, whose singular values are larger; they have no inverse either.
    const RidgeProbe twice = ridge_probe({at::cat({f.x, f.x}, 1), f.y}, {.strengths = {1e-2}});
    CHECK(std::isfinite(twice.squared_error));
    CHECK(twice.accuracy > 0.5);
  }
  // A class without pictures is never the answer; one with a single picture is never found.
  Features f = some();
  f.y[3] = 4;
  const RidgeProbe ridge = ridge_probe({f.x, f.y, 6});
  CHECK(ridge.held_out.argmax(1).max().item<Index>() < 5);
  CHECK(ridge.held_out.argmax(1)[3].item<Index>() != 4);
}

TEST_CASE("Logistic regression is at the minimum", "[probe]") {
  const Json tasks = python("probe.json");
  for (const auto& [name, task] : tasks.members()) {
    const Features f = features_of(name, task);
    for (const Json& wanted : task["logistic"].elements()) {
      INFO(name << ", strength " << wanted["strength"].get<double>());
      const LogisticProbe found = logistic_probe(f, {.strength = wanted["strength"].get<double>()});
      CHECK_THAT(found.loss, WithinAbs(wanted["loss"].get<double>(), 1e-9));
      CHECK(found.iterations <= 30);
      const Tensor weight = double_tensor(wanted["weight"]), bias = double_tensor(wanted["bias"]);
      CHECK(largest(found.weight.flatten() - weight) < 1e-4 * largest(weight));
      CHECK(largest(found.bias - found.bias.mean() - bias) < 1e-4 * (1.0 + largest(bias)));
      // The gradient once more, by the derivative of LibTorch.
      Tensor w = found.weight.to(at::kDouble).requires_grad_(), b = found.bias.to(at::kDouble).requires_grad_();
      const Tensor values = at::linear(f.x, w, b),
                   loss = at::cross_entropy_loss(values, f.y) + found.penalty / 2.0 * (w * w).sum();
      loss.backward();
      CHECK(largest(w.grad()) < 1e-6 * (1.0 + largest(f.x)));
      CHECK(largest(b.grad()) < 1e-6);
      CHECK(loss.item<double>() == Approx(found.loss).margin(1e-9));
      CHECK(values.argmax(1).eq(f.y).to(at::kDouble).mean().item<double>() == Approx(found.accuracy));
    }
  }
}

TEST_CASE("Logistic regression of separable classes and of offsets", "[probe]") {
  const Features f = features_of("separable", 40, 60, 3, 2.0, 1.0);
  const LogisticProbe found = logistic_probe(f, {.strength = 1e-6});
  CHECK(found.accuracy == 1.0);
  CHECK(found.loss < 1e-3);
  const LogisticProbe offset = logistic_probe({f.x * 50.0 + 1000.0, f.y}, {.strength = 1e-6});
  CHECK(offset.loss == Approx(found.loss).epsilon(1e-6));
}

TEST_CASE("What a probe can't use is refused in a sentence", "[probe]") {
  const auto refused = [](const Features& f, const char* sentence) {
    CHECK_THAT(sentence_of<DataError>([&] { logme(f); }), ContainsSubstring(sentence));
    CHECK_THAT(sentence_of<DataError>([&] { ridge_probe(f); }), ContainsSubstring(sentence));
    CHECK_THAT(sentence_of<DataError>([&] { logistic_probe(f); }), ContainsSubstring(sentence));
  };
  const Features f = some();
  refused({f.x, at::ones({40}, at::kLong)}, "all 40 pictures have the class 1");
  refused({at::ones({40, 7}), f.y}, "all 7 features are the same for all 40 pictures");
  Tensor x = f.x.clone();
  x[3][5] = std::numeric_limits<double>::quiet_NaN();
  refused({x, f.y}, "feature 5 of picture 3 is not a number");
  x[3][5] = std::numeric_limits<double>::infinity();
  refused({x, f.y}, "feature 5 of picture 3 is infinite");
  refused({f.x, f.y, 2}, "out of range: there are 2 classes");
  refused({f.x, f.y - 1}, "has the class -1, which is out of range");
  refused({f.x, f.y.narrow(0, 0, 39)}, "an int64 tensor (40), one index a picture; they are Long of shape (39)");
  refused({f.x, f.y.to(at::kInt)}, "they are Int of shape (40)");
  refused({f.x.flatten(), f.y}, "(N, D), a row a picture; they are Double of shape (280)");
  refused({f.y.view({40, 1}), f.y}, "they are Long of shape (40, 1)");
  refused({Tensor(), f.y}, "they are undefined");
  refused({f.x.narrow(0, 0, 2), f.y.narrow(0, 0, 2)}, "3 pictures or more, not of 2");
  CHECK_THAT(sentence_of<DataError>([&] { logme({f.x * 1e200, f.y}); }), ContainsSubstring("too large to be squared"));

  CHECK_THAT(sentence_of<OptionError>([&] { ridge_probe(f, {.strengths = {}}); }), ContainsSubstring("no strength"));
  CHECK_THAT(sentence_of<OptionError>([&] {
               ridge_probe(f, {.strengths = {1.0, 0.0}});
             }),
             ContainsSubstring("above 0, not 0"));
  CHECK_THAT(sentence_of<OptionError>([&] { logistic_probe(f, {.strength = -1.0}); }),
             ContainsSubstring("above 0, not -1"));
  CHECK_THAT(sentence_of<OptionError>([&] { logistic_probe(f, {.tolerance = 0.0}); }),
             ContainsSubstring("between 0 and 1, not 0"));
  CHECK_THAT(sentence_of<OptionError>([&] { logistic_probe(f, {.iterations = 0}); }),
             ContainsSubstring("at least 1 iteration, not 0"));
  CHECK_THAT(sentence_of<TrainingError>([&] { logistic_probe(f, {.iterations = 1}); }),
             ContainsSubstring("not at its minimum after 1 iterations"));
}
