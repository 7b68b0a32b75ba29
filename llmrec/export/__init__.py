"""Exports a trained policy for programs that need neither llmrec nor peft: transformers, llama.cpp and ONNX Runtime."""
