"""Text: the chat template, the coordinates in it, tokens and which of them are trained on."""
