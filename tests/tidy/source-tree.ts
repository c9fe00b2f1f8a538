import { readdirSync, readFileSync } from 'node:fs';
import { basename, join, posix } from 'node:path';
import { parseSync } from 'oxc-parser';
import { z } from 'zod';

const root = join(import.meta.dirname, '../..');
const packages = ['schema', 'control-plane', 'data-plane', 'cli', 'tests'];
const notOurs = new Set(['node_modules', 'dist', 'generated', 'coverage', 'console']);

/** A node of the syntax tree (ESTree), with its members unknown until looked at. */
export interface SyntaxNode {
  readonly type: string;
  readonly start: number;
  readonly end: number;
  readonly [member: string]: unknown;
}

export interface Import {
  /** The specifier as written. */
  readonly specifier: string;
  /** Path from the root where the specifier is relative, else undefined. */
  readonly target: string | undefined;
  /** Nothing of it is left at run time. */
  readonly isTypeOnly: boolean;
  readonly line: number;
}

export interface SourceFile {
  /** From the root, with slashes. */
  readonly path: string;
  readonly name: string;
  readonly packageName: string;
  readonly text: string;
  readonly isTest: boolean;
  readonly imports: readonly Import[];
  readonly comments: readonly { readonly text: string; readonly line: number }[];
  /** Calls `visit` for every node, outermost first. */
  walk(visit: (node: SyntaxNode) => void): void;
  lineOf(offset: number): number;
}

export interface Folder {
  readonly path: string;
  readonly entries: readonly string[];
}

function isSyntaxNode(value: object): value is SyntaxNode {
  return 'type' in value && typeof value.type === 'string' && 'start' in value && typeof value.start === 'number';
}

function walkNode(value: unknown, visit: (node: SyntaxNode) => void): void {
  if (Array.isArray(value)) {
    for (const item of value) walkNode(item, visit);
    return;
  }
  if (typeof value !== 'object' || value === null) return;
  if (isSyntaxNode(value)) visit(value);
  for (const member of Object.values(value)) walkNode(member, visit);
}

function lineFinder(text: string): (offset: number) => number {
  const starts = [0];
  for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1)) starts.push(at + 1);
  return (offset) => {
    let low = 0;
    let high = starts.length - 1;
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if ((starts[middle] ?? 0) <= offset) low = middle;
      else high = middle - 1;
    }
    return low + 1;
  };
}

/** @param path from the root; nothing is read from there */
export function parseSource(path: string, text: string): SourceFile {
  const { program, module: moduleRecord, comments, errors } = parseSync(path, text);
  if (errors.length > 0) throw new Error(`${path} does not parse: ${errors[0]?.message ?? ''}`);
  const lineOf = lineFinder(text);
  const requests = [
    ...moduleRecord.staticImports.map(({ moduleRequest, entries }) => ({
      ...moduleRequest,
      isTypeOnly: entries.length > 0 && entries.every(({ isType }) => isType),
    })),
    ...moduleRecord.staticExports.flatMap(({ entries }) =>
      entries.flatMap(({ moduleRequest, isType }) => (moduleRequest ? { ...moduleRequest, isTypeOnly: isType } : [])),
    ),
    ...moduleRecord.dynamicImports.map(({ moduleRequest: { start, end } }) => ({
      start,
      value: text.slice(start, end).replace(/^['"`]|['"`]$/g, ''),
      isTypeOnly: false,
    })),
  ];
  return {
    path,
    name: basename(path),
    packageName: path.split('/')[0] ?? '',
    text,
    isTest: path.endsWith('.test.ts') || path.startsWith('tests/'),
    imports: requests.map(({ value, start, isTypeOnly }) => ({
      specifier: value,
      target: value.startsWith('.') ? posix.join(posix.dirname(path), value) : undefined,
      isTypeOnly,
      line: lineOf(start),
    })),
    comments: comments.map(({ value, start }) => ({ text: value, line: lineOf(start) })),
    walk: (visit) => walkNode(program, visit),
    lineOf,
  };
}

function collect(path: string, files: string[], folders: Folder[]): void {
  const entries = readdirSync(join(root, path), { withFileTypes: true }).filter(({ name }) => !notOurs.has(name));
  folders.push({ path, entries: entries.map(({ name }) => name) });
  for (const entry of entries) {
    const child = `${path}/${entry.name}`;
    if (entry.isDirectory()) collect(child, files, folders);
    else if (/\.[cm]?[jt]sx?$/.test(entry.name)) files.push(child);
  }
}

const manifestSchema = z.looseObject({
  exports: z.record(z.string(), z.looseObject({ '@sallyport/source': z.string() })).optional(),
});

/** The sources behind the entries that the packages declare, as paths from the root. */
export function readPackageEntries(): ReadonlySet<string> {
  const entries = packages.flatMap((name) => {
    const manifest = manifestSchema.parse(JSON.parse(readFileSync(join(root, name, 'package.json'), 'utf8')));
    return Object.values(manifest.exports ?? {}).map((entry) => posix.join(name, entry['@sallyport/source']));
  });
  return new Set(entries);
}

/** Every source file and folder of the TypeScript packages. */
export function readSourceTree(): { readonly files: readonly SourceFile[]; readonly folders: readonly Folder[] } {
  const files: string[] = [];
  const folders: Folder[] = [];
  for (const name of packages) collect(name, files, folders);
  return { files: files.sort().map((path) => parseSource(path, readFileSync(join(root, path), 'utf8'))), folders };
}
