"""The small LLaVA and the drawn benchmark that ship with the project."""
