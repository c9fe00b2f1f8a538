#!/usr/bin/env node
import { readFileSync } from 'node:fs';
import { type Command, type CommandIo, UsageError } from './command.ts';

/** Loaded when called: `--help` must not wait for the whole of both planes. */
const commands: Readonly<Record<string, () => Promise<Command>>> = {
  start: async () => (await import('./start/command.ts')).startCommand,
  connect: async () => (await import('./connect/command.ts')).connectCommand,
  reset: async () => (await import('./reset.ts')).resetCommand,
  admin: async () => (await import('./admin.ts')).adminCommand,
  audit: async () => (await import('./audit.ts')).auditCommand,
};

const io: CommandIo = {
  write: (text) => process.stdout.write(text),
  writeError: (text) => process.stderr.write(text),
  isInteractive: process.stdout.isTTY === true && process.stdin.isTTY === true,
};

async function overview(): Promise<string> {
  const loaded = await Promise.all(Object.entries(commands).map(async ([name, load]) => ({ name, ...(await load()) })));
  return [
    'Sallyport: an MCP gateway between every MCP client and every MCP server.',
    '',
    'Usage: npx pnpm@12 sallyport <command> [options]',
    '',
    'Commands',
    ...loaded.map(({ name, summary }) => `  ${name.padEnd(10)} ${summary}`),
    '',
    'Options',
    '  --help     Show this, or with a command its options',
    '  --version  Show which version of Sallyport this is',
    '',
    'From a fresh clone, `npx pnpm@12 start` installs, builds and runs `sallyport start`.',
    '',
  ].join('\n');
}

function packageVersion(): string {
  const manifest: unknown = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
  return typeof manifest === 'object' && manifest !== null && 'version' in manifest ? String(manifest.version) : '';
}

const nodeMajorMin = 24;

async function run(given: readonly string[]): Promise<number> {
  if (Number(process.versions.node.split('.')[0]) < nodeMajorMin) {
    throw new Error(
      `Sallyport needs Node.js ${nodeMajorMin} or later, and this is ${process.versions.node}. ` +
        'Run it as "npx pnpm@12 sallyport", which uses the one that comes with it.',
    );
  }
  // pnpm hands on the "--" with which some people part its own options from ours.
  const [name, ...rest] = given.filter((argument) => argument !== '--');
  if (name === undefined || name === '--help' || name === '-h' || name === 'help') {
    io.write(await overview());
    return name === undefined ? 2 : 0;
  }
  if (name === '--version' || name === '-v') {
    io.write(`${packageVersion()}\n`);
    return 0;
  }
  const load = Object.hasOwn(commands, name) ? commands[name] : undefined;
  if (load === undefined) {
    const known = Object.keys(commands).join(', ');
    throw new UsageError(`There is no command "${name}". Commands: ${known}. See "npx pnpm@12 sallyport --help".`);
  }
  const command = await load();
  if (rest.includes('--help') || rest.includes('-h')) {
    io.write(command.help);
    return 0;
  }
  return command.run(rest, io);
}

// A closed terminal or pipe must not keep a command from ending what it began.
process.stdout.on('error', () => undefined);
process.stderr.on('error', () => undefined);

try {
  process.exitCode = await run(process.argv.slice(2));
} catch (error) {
  io.writeError(`\n${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
