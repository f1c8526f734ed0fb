"""LLaVA-1.5 and LLaVA-NeXT, in the form of Hugging Face and in the authors' own."""
