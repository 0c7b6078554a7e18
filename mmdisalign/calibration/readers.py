"""Files of class frequencies.

============================  ======================================================================
format                        content
============================  ======================================================================
name of a shipped table       ``ade20k``, ``lvis_v1``, ``lvis_v0.5``, all in ``mmdisalign/data``
JSON                          a list of counts; a dict from class name to count; or what
                              ``ClassPrior.to_json`` writes (``counts``, ``classes``, ``groups``)
COCO or LVIS JSON             ``categories`` and ``annotations``; counted by instances or images;
                              LVIS frequency groups f, c, r are head, body, tail; of panoptic ones,
                              instances are segments, each thing and each kind of stuff in an image
CSV, TSV, TXT with a header   a column of counts and, optionally, of class names, of indices, and of
                              LVIS frequency groups; ADE20K's ``objectInfo150.txt`` is one
TXT without a header          one count a line
TXT list of images            ``path label`` a line, the path with a file extension: the lists of
                              ImageNet-LT, Places-LT and iNaturalist; counted by label, from 0 to
                              the largest
============================  ======================================================================

LVIS's groups go by training images: rare (r) up to 10, common (c) up to 100, frequent (f) above.
Where a file does not say, ``groups=dict(by='count', unit='images', head=100, tail=11)`` does it.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

from ..data import table_path

COUNT_COLUMNS = ('count', 'counts', 'pixels', 'instances', 'ratio', 'frequency', 'images', 'train')
NAME_COLUMNS = ('name', 'class', 'category')
INDEX_COLUMNS = ('idx', 'index', 'id')
GROUP_COLUMNS = ('group', 'frequency')
UNITS = ('instances', 'images')
# The tables that ship, with the split into head, body and tail that the data set's users report,
# or None if the table has a column of it.
SHIPPED_TABLES = {
    'ade20k': {'by': 'rank', 'head': 20, 'body': 55},
    'lvis_v1': None,
    'lvis_v0.5': None,
}
LVIS_GROUPS = {'f': 'head', 'c': 'body', 'r': 'tail'}
# A line of a list of images. The extension tells it from a class name and its count.
IMAGE_LINE = re.compile(r'\S.*\.[A-Za-z]\w* +\d+\s*$')
Lines = Mapping[int, str]


@dataclass
class Table:
    """What a file says of its classes, in class order."""

    counts: Sequence[float]
    classes: Optional[Sequence[str]] = None
    groups: Optional[Mapping] = None
    images: Optional[Sequence[float]] = None

    @classmethod
    def from_mapping(cls, content: Mapping) -> Table:
        """From what ``ClassPrior.to_json`` writes, or from a dict of class name to count."""
        if 'counts' in content:
            names = ('classes', 'groups', 'images')
            counts = [_number(value, f'counts[{i}]') for i, value in enumerate(content['counts'])]
            return cls(counts, **{name: content.get(name) for name in names})
        return cls([_number(value, key) for key, value in content.items()], list(content))


def read_table(source: Union[str, Path], **options: str) -> Table:
    """Read a file, or a shipped table by its name."""
    unknown = set(options) - {'column', 'unit'}
    if unknown:
        raise TypeError(f'a class prior has no option {", ".join(sorted(unknown))}')
    if str(source) in SHIPPED_TABLES:
        path = table_path(str(source))
        table = _read_columns(path, _read_lines(path), **options)
        table.groups = SHIPPED_TABLES[str(source)] or table.groups
        return table
    path = Path(source)
    if path.is_dir() or not path.exists():
        raise FileNotFoundError(
            f'no class prior at {path}, seen from {Path.cwd()} (shipped tables: '
            f'{", ".join(SHIPPED_TABLES)}); tools/class_prior.py counts one from the training data'
        )
    try:
        return _read_file(path, **options)
    except (AttributeError, KeyError, TypeError, OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f'{path} cannot be read as a class prior ({type(error).__name__}: {error}): it is none '
            'of the formats that ClassPrior.build takes'
        ) from error


def _read_file(path: Path, **options: str) -> Table:
    if path.suffix.lower() == '.json':
        return _read_json(path, **options)
    lines = _read_lines(path)
    if path.suffix.lower() == '.txt' and any(map(IMAGE_LINE.match, lines.values())):
        return _count_images(path, lines, **options)
    return _read_columns(path, lines, **options)


def _read_json(path: Path, unit: Optional[str] = None) -> Table:
    try:
        content = json.loads(path.read_text(encoding='utf-8-sig'))
    except json.JSONDecodeError as error:
        raise ValueError(f'{path} is not JSON: {error}') from error
    if isinstance(content, dict) and 'categories' in content and 'annotations' in content:
        return _count_annotations(content, path, unit or 'instances')
    if unit is not None:
        raise ValueError(f'{path}: unit={unit!r} only applies to COCO and LVIS annotation files')
    if isinstance(content, list):
        return Table([_number(value, f'{path}, entry {i}') for i, value in enumerate(content)])
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds neither a list nor a dict of class counts')
    return Table.from_mapping(content)


def _count_annotations(content: Mapping[str, Any], path: Path, unit: str) -> Table:
    """Count a COCO or LVIS annotation file; classes are in its order, as mmdet labels them."""
    _check_unit(unit)
    categories = content['categories']
    index = {category['id']: i for i, category in enumerate(categories)}
    seen: list[list] = [[] for _ in categories]
    for annotation in _segments(content['annotations']):
        if annotation['category_id'] not in index:
            raise ValueError(
                f'{path}: annotation {annotation.get("id")} has category '
                f'{annotation["category_id"]}, which is not one of the categories'
            )
        if not annotation.get('iscrowd', 0):  # detectors do not train on crowds
            seen[index[annotation['category_id']]].append(annotation['image_id'])
    images = [len(set(ids)) for ids in seen]
    return Table(
        images if unit == 'images' else [len(ids) for ids in seen],
        [category['name'] for category in categories],
        _lvis_groups([category.get('frequency') for category in categories]),
        images,
    )


def _segments(annotations: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Annotations, one an instance or segment; panoptic files have all of an image in one."""
    for annotation in annotations:
        if 'segments_info' not in annotation:
            yield annotation
            continue
        for segment in annotation['segments_info']:
            yield {**segment, 'image_id': annotation['image_id']}


def _check_unit(unit: str) -> None:
    if unit not in UNITS:
        raise ValueError(f"unit must be 'instances' or 'images', got {unit!r}")


def _lvis_groups(letters: Sequence[Optional[str]]) -> Optional[Mapping]:
    """Class indices by group, or None unless every class has one of the letters f, c, r."""
    if not all(letter in LVIS_GROUPS for letter in letters):
        return None
    groups: dict[str, list[int]] = {name: [] for name in LVIS_GROUPS.values()}
    for i, letter in enumerate(letters):
        groups[LVIS_GROUPS[letter]].append(i)
    return groups


def _read_lines(path: Path) -> Lines:
    """The lines of a file by their number, but for blank ones and comments."""
    lines = path.read_text(encoding='utf-8-sig').splitlines()
    lines = {number: line for number, line in enumerate(lines, start=1) if line.strip()}
    lines = {number: line for number, line in lines.items() if not line.startswith('#')}
    if not lines:
        raise ValueError(f'{path} is empty')
    return lines


def _count_images(path: Path, lines: Lines, **options: str) -> Table:
    """Count the labels of a list of images; a label below the largest may have no image."""
    if options:
        raise ValueError(f'{path} is a list of images, to which {sorted(options)} do not apply')
    counts = Counter(_label(line, f'{path}, line {number}') for number, line in lines.items())
    return Table([counts[label] for label in range(max(counts) + 1)])


def _label(line: str, where: str) -> int:
    """The label of a line, which is what follows its last space, as for mmpretrain."""
    path, _, label = line.strip().rpartition(' ')
    if not path or not label.isdecimal():
        raise ValueError(f"{where}: {line!r} is not 'path label' with a label of 0 or more")
    return int(label)


def _read_columns(
    path: Path, lines: Lines, column: Optional[str] = None, unit: Optional[str] = None
) -> Table:
    """Read a table; ``unit`` names the column of counts as ``column`` does."""
    if unit is not None:
        _check_unit(unit)
        column = unit if column is None else column
    if _is_number(next(iter(lines.values()))):
        return Table([_number(line, f'{path}, line {number}') for number, line in lines.items()])
    columns = _split_columns(path, list(lines.values()))
    groups = _group_column(columns)
    candidates = COUNT_COLUMNS if column is None else (column.lower(),)
    values = _find_column([name for name in columns if name != groups], candidates)
    if values is None:
        raise ValueError(
            f'{path} has no column {column or " or ".join(COUNT_COLUMNS)}; it has {list(columns)}. '
            "Name the column of counts with dict(source=..., column='...')"
        )
    indices = _find_column(columns, INDEX_COLUMNS)
    if indices is not None:
        _check_order(path, columns[indices])
    names = _find_column(columns, NAME_COLUMNS)
    return Table(
        _numbers(path, columns[values]),
        None if names is None else columns[names],
        None if groups is None else _lvis_groups(columns[groups]),
        _numbers(path, columns['images']) if 'images' in columns else None,
    )


def _numbers(path: Path, column: Sequence[str]) -> list[float]:
    return [_number(value, f'{path}, row {i}') for i, value in enumerate(column, start=1)]


def _split_columns(path: Path, lines: Sequence[str]) -> dict[str, list[str]]:
    """The columns by their names in the header, in lower case."""
    rows = list(csv.reader(lines, delimiter='\t' if '\t' in lines[0] else ','))
    header = [name.strip().lower() for name in rows.pop(0)]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise ValueError(
                f'{path}, row {number} has {len(row)} columns, not {len(header)}: {row}'
            )
    return {name: [row[i].strip() for row in rows] for i, name in enumerate(header)}


def _group_column(columns: Mapping[str, Sequence[str]]) -> Optional[str]:
    """The column of LVIS groups. ``frequency`` may hold counts, so the content decides."""
    found = (name for name in GROUP_COLUMNS if name in columns)
    return next((name for name in found if _lvis_groups(columns[name]) is not None), None)


def _find_column(header: Collection[str], candidates: Sequence[str]) -> Optional[str]:
    return next((name for name in candidates if name in header), None)


def _check_order(path: Path, indices: Sequence[str]) -> None:
    """Rows are classes in order; an index column that says otherwise would shift every class."""
    numbers = [int(number) for number in _numbers(path, indices)]
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise ValueError(f'{path}: the rows are not in class order, or classes are missing')


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(value: Any, where: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f'{where}: {value!r} is not a count') from None
