"""ONNX and int8 export."""
