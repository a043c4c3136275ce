"""What a case costs on several workers: measured (`measure`), and planned with (`simulate`)."""
