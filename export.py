"""Export a net to ONNX and prove it: python export.py checkpoint=FILE (all settings: --help)."""

from omegaconf import DictConfig

from u2slim.cli import output_dir, research_command
from u2slim.export.run import export


@research_command("export")
def main(cfg: DictConfig) -> float:
    return export(cfg, output_dir())


if __name__ == "__main__":
    main()
