"""What recipes of images share: their data, chains with pictures along them, and judged samples."""
