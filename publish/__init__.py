"""From a finished run to other people's tools: hub, card, ONNX, reports. Reads files on disk; knows no stage."""
