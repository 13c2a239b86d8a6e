"""Export to ONNX and int8."""
