"""Drawing: numbers and plain tensors in, a picture out. No mesh is known here."""
