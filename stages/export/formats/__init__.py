"""Write the student and its teacher in each format: sentence-transformers, ONNX, plain torch."""
