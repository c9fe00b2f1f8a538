import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const require = createRequire(import.meta.url);
const inspector = join(
  dirname(require.resolve('@modelcontextprotocol/inspector/package.json')),
  'clients/launcher/build/index.js',
);
const mcpRemote = join(dirname(require.resolve('mcp-remote/package.json')), 'dist/proxy.js');
const sallyport = fileURLToPath(new URL('../../cli/src/main.ts', import.meta.url));
const pageForm = /https?:\/\/\S+\/oauth\/authorize\?\S+/;

/** A client as people run it: a program that names a page to log in at, and waits. */
export class ClientProgram {
  readonly child: ChildProcessWithoutNullStreams;
  readonly #ended: Promise<number | null>;
  #page = Promise.withResolvers<string>();
  output = '';
  errors = '';

  constructor(commandArguments: readonly string[], home: string) {
    this.child = spawn(process.execPath, commandArguments, {
      env: {
        // No program of the system that could open a browser is found.
        PATH: dirname(process.execPath),
        HOME: home,
        XDG_CONFIG_HOME: home,
        MCP_REMOTE_CONFIG_DIR: join(home, 'mcp-remote'),
        MCP_CATALOG_PATH: join(home, 'catalog.json'),
        MCP_INSPECTOR_HOME: join(home, 'inspector'),
        // The Inspector asks for a terminal otherwise.
        MCP_AUTO_OPEN_ENABLED: 'true',
      },
    });
    this.child.stdout.on('data', (chunk: Buffer) => {
      this.output += chunk.toString();
      this.#look();
    });
    this.child.stderr.on('data', (chunk: Buffer) => {
      this.errors += chunk.toString();
      this.#look();
    });
    this.#ended = once(this.child, 'close').then(([code]: unknown[]) => {
      this.#page.reject(new Error(`it ended without naming a page: ${this.errors}${this.output}`));
      return typeof code === 'number' ? code : null;
    });
    this.#page.promise.catch(() => undefined);
  }

  #look(): void {
    const page = pageForm.exec(this.errors)?.[0] ?? pageForm.exec(this.output)?.[0];
    if (page !== undefined) this.#page.resolve(page);
  }

  /** The page to log in at, once it was named. */
  page(): Promise<string> {
    return this.#page.promise;
  }

  /** @returns the exit code */
  ended(): Promise<number | null> {
    return this.#ended;
  }

  async stop(): Promise<void> {
    this.child.kill();
    await this.#ended;
  }
}

/** MCP Inspector's command line; it registers itself, or is told who it is. */
export function inspectorProgram(endpoint: string, callbackPort: number, more: readonly string[]): readonly string[] {
  const callback = ['--callback-url', `http://127.0.0.1:${callbackPort}/oauth/callback`];
  return [inspector, '--cli', endpoint, '--transport', 'http', ...callback, ...more];
}

/** `mcp-remote`: speaks stdio to its client. */
export function mcpRemoteProgram(endpoint: string, callbackPort: number): readonly string[] {
  return [mcpRemote, endpoint, String(callbackPort), '--allow-http', '--transport', 'http-only'];
}

export function connectProgram(endpoint: string, more: readonly string[] = []): readonly string[] {
  return ['--conditions=@sallyport/source', sallyport, 'connect', endpoint, '--no-browser', ...more];
}
