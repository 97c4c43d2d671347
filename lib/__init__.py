"""What Cartwheel's jobs share: settings, tables, the lake, runs, engines, formats, metrics."""
