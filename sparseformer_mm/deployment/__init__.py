"""Models of the four libraries as ONNX files."""
