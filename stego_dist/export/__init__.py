"""A trained run as a file that runs elsewhere: torch.export, ONNX or safetensors, checked, with a card."""
