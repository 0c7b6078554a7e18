"""Count the classes of a config's training data: ``class_prior.py CONFIG --out prior.json``."""

from __future__ import annotations

import argparse

from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope

from mmdisalign.engine import check_data


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Count the pixels of each class (mmseg configs)')
    parser.add_argument('config', help='config file')
    parser.add_argument('--split', default='train', choices=['train', 'val', 'test'])
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='settings that override the config'
    )
    parser.add_argument('--out', required=True, help='JSON file to write, which ClassPrior reads')
    return parser.parse_args()


def main() -> None:
    """Count and write as the command line says."""
    args = parse_args()
    cfg = Config.fromfile(args.config)
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    if cfg.get('default_scope') != 'mmseg':
        raise ValueError(f'{args.config} is not an mmseg config: default_scope is not mmseg')
    check_data(cfg, args.split)
    init_default_scope('mmseg')

    from mmdisalign.segmentation.count import count_pixels

    prior = count_pixels(cfg[f'{args.split}_dataloader'].dataset)
    prior.to_json(args.out)
    print(f'\n{prior}\nwritten to {args.out}')
    unseen = [prior.name_of(c) for c in range(len(prior)) if not prior.counts[c]]
    if unseen:
        print(f'never seen: {", ".join(unseen)}; zero_count= on the model says how to weigh them')


if __name__ == '__main__':
    main()
