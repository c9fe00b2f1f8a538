import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '@sallyport/cli';
import type { TestProject } from 'vitest/node';

declare module 'vitest' {
  interface ProvidedContext {
    /** Answers with the superuser's URL of the run's PostgreSQL, which it starts when first asked. */
    postgresStarterUrl: string;
  }
}

/** The data die with the run, so nothing needs to reach the disk. */
const settings = ['fsync=off', 'synchronous_commit=off', 'full_page_writes=off', 'max_connections=400'];

/**
 * One PostgreSQL for all workers of a run, started only when a test file asks for it: a run of unit tests alone pays
 * nothing.
 */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const directory = mkdtempSync(join(tmpdir(), 'sallyport-postgres-'));
  let postgres: Promise<EmbeddedPostgres> | undefined;
  const starter = createServer((_request, response) => {
    postgres ??= startEmbeddedPostgres({ directory, settings });
    postgres.then(
      ({ url }) => response.end(url),
      (error: unknown) => response.writeHead(500).end(error instanceof Error ? error.message : String(error)),
    );
  });
  await new Promise<void>((resolve) => starter.listen(0, '127.0.0.1', resolve));
  const address = starter.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  project.provide('postgresStarterUrl', `http://127.0.0.1:${port}`);
  return async () => {
    starter.closeAllConnections();
    await new Promise((resolve) => starter.close(resolve));
    await postgres?.then((started) => started.stop()).catch(() => undefined);
    rmSync(directory, { recursive: true, force: true });
  };
}
