/// \file
/// All of `transfer.hpp`, and everything for detectors. Its data sets read pictures from files, so a program that
/// includes it links libjpeg and libpng. Sorted includes, nothing else.
#pragma once

#include <transferlib/darknet_detector.hpp>
#include <transferlib/data/box_transforms.hpp>
#include <transferlib/data/detection.hpp>
#include <transferlib/detect/anchors.hpp>
#include <transferlib/detect/assign.hpp>
#include <transferlib/detect/selection.hpp>
#include <transferlib/detector_parts.hpp>
#include <transferlib/heads/yolo.hpp>
#include <transferlib/heads/yolo_v1.hpp>
#include <transferlib/heads/yolox.hpp>
#include <transferlib/metrics/detection.hpp>
#include <transferlib/model/detector.hpp>
#include <transferlib/model/neck.hpp>
#include <transferlib/necks/elan.hpp>
#include <transferlib/necks/feature_pyramid.hpp>
#include <transferlib/necks/passthrough.hpp>
#include <transferlib/necks/path_aggregation.hpp>
#include <transferlib/necks/spp.hpp>
#include <transferlib/necks/yolo_v3.hpp>
#include <transferlib/transfer.hpp>
