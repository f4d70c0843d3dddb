/// \file
/// Trains a sliding window on pictures with boxes: `train_windows --data DIR --format voc --classes WBC`.
#include <string>
#include <vector>

#include "arguments.hpp"
#include "shared.hpp"
#include "sliding.hpp"

using tools::text;

int main(int argc, char** argv) {
  tools::Sliding told;
  tools::Arguments arguments(
      "--data DIR [options]",
      "Trains a sliding window on pictures with boxes: a linear head on a frozen network of the zoo, windows cut from\n"
      "the boxes and beside them, hard negatives looked for. The run's folder has the detector, window.safetensors.");
  arguments.option("--data", "DIR", "pictures and boxes", told.data)
      .option("--format", "F", "voc, yolo or coco (voc)", told.format)
      .option("--train", "SET", "to learn from (the data's own set, or by chance)", told.train)
      .option("--val", "SET", "to measure with", told.val)
      .option("--classes", "A,B", "the objects; all others are background (all)", told.classes)
      .option("--backbone", "NAME", "a network of the zoo; weights_tool backbones lists them (efficientnet_lite0)",
              told.backbone)
      .option("--weights", "FILE", "the network's (the published ones)", told.weights)
      .flag("--random", "random weights", told.random)
      .option("--window", "N", "side of the window in pixels, and of the network's input (96)", told.window)
      .option("--stride", "N", "pixels from one window to the next (16)", told.stride)
      .option("--scale", "X", "between the levels of the pyramid (1.25)", told.scale)
      .option("--smallest", "N", "side of the smallest window in the pictures' pixels (the window's)", told.smallest)
      .option("--mode", "M", "exact, or dense, where the network can do it (exact)", told.mode)
      .option("--learn", "FROM",
              "windows that are cut around objects, or those at all places where it looks: cut or "
              "places (cut; of dense: places)",
              told.learn)
      .option("--merge", "M", "of overlapping boxes: greedy, soft or fusion (greedy)", told.merge)
      .option("--rounds", "N", "of looking for hard negatives (1)", told.rounds)
      .option("--views", "N", "windows cut around an object (8)", told.views)
      .option("--background", "N", "windows cut beside objects, a picture (24)", told.background)
      .option("--epochs", "N", "of each round (10)", told.epochs)
      .option("--batch", "N", "windows a step (100)", told.batch)
      .option("--lr", "X", "Adam's learning rate (0.001)", told.lr)
      .option("--threads", "N", "(one a core)", told.threads)
      .option("--seed", "N", "what windows, weights and a drawn split depend on (0)", told.seed)
      .option("--out", "DIR", "the run's folder (runs/<date-time>)", told.out)
      .footer("Ctrl-C stops it.");
  return tools::run(argc, argv, arguments, [&](const std::vector<std::string>& given) {
    if (!given.empty()) throw tools::Usage(text("\"", given[0], "\" is no option"));
    tools::check(told);
    tools::settle_threads(told.threads);
    return tools::train_sliding(told);
  });
}
