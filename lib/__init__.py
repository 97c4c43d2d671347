"""Code shared by Cartwheel's jobs: settings, tables, the lake, runs, engines, formats, metrics."""
