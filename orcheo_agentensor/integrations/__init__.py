"""Optional bridges to other packages; each is imported only where that package is there."""
