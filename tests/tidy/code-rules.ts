import { z } from 'zod';
import { type Folder, readPackageEntries, type SourceFile, type SyntaxNode } from './source-tree.ts';

const functionLinesMax = 70;
const fileLinesMax = 500;

const named = z.looseObject({ type: z.literal('Identifier'), name: z.string() });
const memberExpression = z.looseObject({ object: z.unknown(), property: z.unknown() });
const newExpression = z.looseObject({ callee: named, arguments: z.array(z.unknown()) });

function identifier(value: unknown): string | undefined {
  const parsed = named.safeParse(value);
  return parsed.success ? parsed.data.name : undefined;
}

/** `object.property` as text, where both are plain names. */
function memberName(node: SyntaxNode): string | undefined {
  if (node.type !== 'MemberExpression') return undefined;
  const parsed = memberExpression.safeParse(node);
  if (!parsed.success) return undefined;
  return `${identifier(parsed.data.object) ?? '?'}.${identifier(parsed.data.property) ?? '?'}`;
}

function membersOf(file: SourceFile, matches: (name: string) => boolean): { name: string; line: number }[] {
  const found: { name: string; line: number }[] = [];
  file.walk((node) => {
    const name = memberName(node);
    if (name !== undefined && matches(name)) found.push({ name, line: file.lineOf(node.start) });
  });
  return found;
}

const functions = new Set(['FunctionDeclaration', 'FunctionExpression', 'ArrowFunctionExpression']);

export function longFunctions(file: SourceFile): string[] {
  const problems: string[] = [];
  file.walk((node) => {
    if (!functions.has(node.type)) return;
    const lines = file.lineOf(node.end) - file.lineOf(node.start) + 1;
    // The callback of a describe is a table of contents, not a function that anyone has to hold in mind.
    const isDescribe = file.isTest && /\bdescribe[\w.]*\([^\n]*$/.test(file.text.slice(0, node.start).slice(-200));
    if (lines > functionLinesMax && !isDescribe) {
      problems.push(`${file.path}:${file.lineOf(node.start)} a function of ${lines} lines`);
    }
  });
  return problems;
}

export function longFiles(file: SourceFile): string[] {
  const lines = file.text.split('\n').length - 1;
  return lines > fileLinesMax ? [`${file.path} has ${lines} lines`] : [];
}

/** The environment is read in one place per program; a test may ask whether to write its golden file anew. */
export function environmentReads(file: SourceFile): string[] {
  if (file.name === 'config.ts' || (file.isTest && file.text.includes("process.env['UPDATE_GOLDEN']"))) return [];
  return membersOf(file, (name) => name === 'process.env').map(({ line }) => `${file.path}:${line} process.env`);
}

/** Commands print in `main.ts`; everything else logs. */
export function consoleCalls(file: SourceFile): string[] {
  if (file.name === 'main.ts') return [];
  return membersOf(file, (name) => name.startsWith('console.')).map(({ name, line }) => `${file.path}:${line} ${name}`);
}

const clockFiles = new Set(['schema/src/platform/clock.ts', 'schema/src/platform/identifiers.ts']);
const ambient = new Set(['Date.now', 'performance.now', 'Math.random', 'crypto.randomUUID', 'process.hrtime']);

/** Time and identity are passed in, so that tests decide them. */
export function ambientTimeAndIdentity(file: SourceFile): string[] {
  if (file.isTest || clockFiles.has(file.path)) return [];
  const problems = membersOf(file, (name) => ambient.has(name)).map(({ name, line }) => `${file.path}:${line} ${name}`);
  file.walk((node) => {
    if (node.type === 'NewExpression') {
      const parsed = newExpression.safeParse(node);
      if (parsed.success && parsed.data.callee.name === 'Date' && parsed.data.arguments.length === 0) {
        problems.push(`${file.path}:${file.lineOf(node.start)} new Date()`);
      }
    }
    if (identifier(node) === 'randomUUID') problems.push(`${file.path}:${file.lineOf(node.start)} randomUUID`);
  });
  return problems;
}

const bannedFolders = new Set(['utils', 'util', 'helpers', 'helper', 'common', 'shared', 'lib', 'core', 'misc']);
const bannedFiles = /^(types|utils?|helpers?|common|misc|constants|interfaces)\.ts$/;
const kebabCase = /^[a-z0-9]+(-[a-z0-9]+)*(\.(service|resolver|graphql|tables|job|test|bench|golden))*\.[cm]?ts$/;
const packageEntries = readPackageEntries();

export function badFileNames(file: SourceFile): string[] {
  if (bannedFiles.test(file.name)) return [`${file.path} does not say what is in it`];
  if (!kebabCase.test(file.name)) return [`${file.path} is not kebab-case TypeScript`];
  if (file.name === 'index.ts' && !packageEntries.has(file.path)) return [`${file.path} is a barrel`];
  return [];
}

export function badFolders({ path, entries }: Folder): string[] {
  const name = path.split('/').at(-1) ?? '';
  if (bannedFolders.has(name)) return [`${path} does not say what is in it`];
  if (entries.length < 2 && path.includes('/') && !path.endsWith('/src')) return [`${path} holds one file`];
  return [];
}

/** Words for which the glossary has another. Matched in identifiers, as parts of camel-case names. */
const synonyms: Readonly<Record<string, string>> = {
  downstream: 'client',
  tenant: 'organization (there is one)',
  whitelist: 'allow',
  blacklist: 'deny',
};
const bareNames = new Set(['version', 'revision']);
const declarations = new Set([
  'VariableDeclarator',
  'FunctionDeclaration',
  'ClassDeclaration',
  'TSInterfaceDeclaration',
]);

export function synonymsUsed(file: SourceFile): string[] {
  // The list above has to name them.
  if (file.path.startsWith('tests/tidy/')) return [];
  const problems: string[] = [];
  file.walk((node) => {
    const name = identifier(node);
    if (name === undefined) return;
    for (const [synonym, word] of Object.entries(synonyms)) {
      if (name.toLowerCase().includes(synonym)) {
        problems.push(`${file.path}:${file.lineOf(node.start)} ${name}: the word is ${word}`);
      }
    }
  });
  return [...new Set(problems)];
}

/** Which version, which revision? A variable's name says it: protocolRevision, configRevision, expectedRevision. */
export function bareRevisions(file: SourceFile): string[] {
  if (file.isTest) return [];
  const problems: string[] = [];
  file.walk((node) => {
    if (!declarations.has(node.type)) return;
    const name = identifier(node['id']);
    if (name !== undefined && bareNames.has(name)) {
      problems.push(`${file.path}:${file.lineOf(node.start)} a bare "${name}"`);
    }
  });
  return problems;
}

const unfinished = new RegExp(`\\b(${['TO' + 'DO', 'FIX' + 'ME', 'X' + 'XX', 'HA' + 'CK'].join('|')})\\b`);
const ticket = /(^|\s)(#\d{2,}\b|(issue|ticket|PR)\s+#?\d+)/i;

/** Comments say why; what is still to be done and where it was discussed live elsewhere. */
export function unfinishedComments(file: SourceFile): string[] {
  return file.comments
    .filter(({ text }) => unfinished.test(text) || ticket.test(text))
    .map(({ text, line }) => `${file.path}:${line} ${text.trim().split('\n')[0] ?? ''}`);
}

const machinePath = /['"`\s(](\/(work|root|home|Users|tmp)\/[\w.-]+)/g;
/** Made up, for tests of what is printed. */
const inventedHome = /^\/(home|Users)\/ann\b/;

export function machinePaths(file: SourceFile): string[] {
  // The test of this rule has to write one down.
  if (file.path.startsWith('tests/tidy/')) return [];
  return [...file.text.matchAll(machinePath)]
    .filter(([, path]) => path !== undefined && !inventedHome.test(path))
    .map(({ index, 1: path }) => `${file.path}:${file.lineOf(index)} ${path ?? ''}`);
}

const focused = /\b(test|it|describe)\.only\(/g;
const silenced = /\b(test|it|describe)\.(skip|todo)\(/g;

/** A test that does not run is a promise nobody keeps; `skipIf` says why. */
export function testsNotRun(file: SourceFile): string[] {
  if (!file.name.endsWith('.test.ts')) return [];
  return [focused, silenced].flatMap((pattern) =>
    [...file.text.matchAll(pattern)].map(({ index, 0: found }) => `${file.path}:${file.lineOf(index)} ${found}`),
  );
}
