"""How the small LLaVA and the drawn benchmark that ship with the project were made; no part of an installed Saccade."""
