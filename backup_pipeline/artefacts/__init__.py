"""What several kinds share in making, inspecting and restoring an artefact."""
