"""One file per graph pass: ONNX to ONNX."""
