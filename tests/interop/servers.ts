/** Servers that others made, as programs of their own, each behind a tap that sees what reaches it. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { dirname, join } from 'node:path';
import { freePort } from '@sallyport/cli';
import { findBinary } from '../kit/binaries.ts';
import { waitFor } from '../kit/condition.ts';
import { startReferenceServer } from '../kit/reference-server.ts';
import { type Answer, packageFolder } from './clients.ts';
import { startTap, type Tap } from './tap.ts';

interface Call {
  readonly name: string;
  readonly values: Readonly<Record<string, unknown>>;
}

export interface InteropServer {
  readonly slug: string;
  readonly name: string;
  /** Null where it is ours, on the official SDK. */
  readonly packageName: string | null;
  /** Its revisions, for the reader. */
  readonly speaks: string;
  /** A program of the operating system without which it cannot do what it is asked. */
  readonly needs?: string;
  /** What of it is used; what is missing it lacks. */
  readonly call: Call & { readonly says: string };
  readonly resource?: { readonly uri: string; readonly says: string };
  readonly prompt?: { readonly name: string; readonly says: string };
  readonly asking?: Call & { readonly answer: Answer; readonly says: string };
  readonly telling?: Call;
  /** Runs until it is cancelled; `mark` stands in its request, and in no other. */
  readonly slow?: Call & { readonly mark: string };
  /** @param home a folder for what it writes */
  start(home: string): Promise<RunningServer>;
}

export interface RunningServer {
  readonly tap: Tap;
  stop(): Promise<void>;
}

const startDeadlineMs = 60_000;

async function startProgram(
  file: string,
  options: {
    readonly home: string;
    readonly port: number;
    readonly parameters: readonly string[];
    readonly mark?: string;
  },
): Promise<RunningServer> {
  const { home, port, parameters, mark } = options;
  const child = spawn(process.execPath, [file, ...parameters], {
    // Nothing of this process's environment: one of them has a tool that shows it.
    env: { PORT: String(port), HOST: '127.0.0.1', PATH: dirname(process.execPath), HOME: home },
    cwd: home,
    stdio: 'ignore',
  });
  const url = `http://localhost:${port}/mcp`;
  await waitFor(`${file} listens`, async () => (await fetch(url, { method: 'OPTIONS' })).status > 0, {
    deadlineMs: startDeadlineMs,
  }).catch(async (error: unknown) => {
    await ended(child);
    throw error;
  });
  const tap = await startTap(url, mark);
  return {
    tap,
    stop: async () => {
      await tap.stop();
      await ended(child);
    },
  };
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  // A server that started a browser ends it too.
  child.kill('SIGTERM');
  await once(child, 'exit');
}

export const interopServers: readonly InteropServer[] = [
  {
    slug: 'everything',
    name: 'Everything',
    packageName: '@modelcontextprotocol/server-everything',
    speaks: '2025-11-25 and older',
    call: { name: 'echo', values: { message: 'hello' }, says: 'Echo: hello' },
    resource: { uri: 'demo://resource/static/document/features.md', says: 'Everything Server' },
    prompt: { name: 'simple-prompt', says: 'simple prompt' },
    asking: { name: 'trigger-elicitation-request', values: {}, answer: { name: 'Ada', check: true }, says: 'Ada' },
    telling: { name: 'trigger-long-running-operation', values: { duration: 0.2, steps: 2 } },
    slow: { name: 'trigger-long-running-operation', values: { duration: 600, steps: 601 }, mark: '601' },
    start: async (home) => {
      const file = join(packageFolder('@modelcontextprotocol/server-everything'), 'dist/index.js');
      return startProgram(file, { home, port: await freePort(), parameters: ['streamableHttp'], mark: '601' });
    },
  },
  {
    slug: 'playwright',
    name: 'Playwright',
    packageName: '@playwright/mcp',
    speaks: '2025-11-25 and older',
    needs: 'chromium',
    call: { name: 'browser_navigate', values: { url: 'data:text/html,<h1>Hello</h1>' }, says: 'Page URL: data:' },
    slow: { name: 'browser_wait_for', values: { time: 600 }, mark: 'browser_wait_for' },
    start: async (home) => {
      const port = await freePort();
      const file = join(packageFolder('@playwright/mcp'), 'cli.js');
      const browser = ['--executable-path', findBinary('chromium') ?? '', '--headless', '--isolated', '--no-sandbox'];
      return startProgram(file, {
        home,
        port,
        parameters: ['--port', String(port), ...browser],
        mark: 'browser_wait_for',
      });
    },
  },
  {
    slug: 'budget',
    name: 'Budget Allocator, an MCP App',
    packageName: '@modelcontextprotocol/server-budget-allocator',
    speaks: '2025-11-25 and older',
    call: { name: 'get-budget-data', values: {}, says: 'categories' },
    resource: { uri: 'ui://budget-allocator/mcp-app.html', says: '<html' },
    start: async (home) => {
      const file = join(packageFolder('@modelcontextprotocol/server-budget-allocator'), 'dist/index.js');
      return startProgram(file, { home, port: await freePort(), parameters: [] });
    },
  },
  {
    slug: 'reference',
    name: 'The reference server',
    packageName: null,
    speaks: '2026-07-28 alone',
    call: { name: 'test_simple_text', values: {}, says: 'text' },
    resource: { uri: 'test://static-text', says: 'text' },
    prompt: { name: 'test_simple_prompt', says: 'prompt' },
    asking: {
      name: 'test_elicitation',
      values: { message: 'Who?' },
      answer: { username: 'Ada', email: 'ada@example.com' },
      says: 'accept',
    },
    telling: { name: 'test_tool_with_progress', values: {} },
    slow: { name: 'test_waits', values: {}, mark: 'test_waits' },
    start: async () => {
      const reference = await startReferenceServer({ eras: 'modern' });
      const tap = await startTap(reference.url, 'test_waits');
      return {
        tap,
        stop: async () => {
          await tap.stop();
          await reference.stop();
        },
      };
    },
  },
];
