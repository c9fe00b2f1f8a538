import { mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { sha256 } from '@sallyport/schema';
import { randomSecret } from '@sallyport/schema/platform';
import { z } from 'zod';

const storedSchema = z.object({
  endpoint: z.string(),
  /** Of the authorization server that the rest belongs to. */
  issuer: z.string(),
  clientId: z.string().optional(),
  tokens: z
    .looseObject({ access_token: z.string(), token_type: z.string(), refresh_token: z.string().optional() })
    .optional(),
});
export type StoredCredentials = z.infer<typeof storedSchema>;

/**
 * What a login at one endpoint left, in a file of its own that only its owner can read. Read anew each time: another
 * process may have refreshed the tokens meanwhile.
 */
export class CredentialStore {
  readonly #directory: string;
  readonly #endpoint: string;

  /** @param directory is made, for its owner alone, when something is stored */
  constructor(directory: string, endpoint: URL) {
    this.#directory = join(directory, 'credentials');
    this.#endpoint = endpoint.href;
  }

  get file(): string {
    return join(this.#directory, `${sha256(this.#endpoint).slice(0, 32)}.json`);
  }

  /** @throws where others may read the file */
  read(): StoredCredentials | undefined {
    let text: string;
    try {
      text = readFileSync(this.file, 'utf8');
    } catch {
      return undefined;
    }
    if (process.platform !== 'win32' && (statSync(this.file).mode & 0o077) !== 0) {
      throw new Error(`${this.file} can be read by others: delete it and log in again`);
    }
    try {
      const stored = storedSchema.safeParse(JSON.parse(text));
      return stored.success && stored.data.endpoint === this.#endpoint ? stored.data : undefined;
    } catch {
      return undefined;
    }
  }

  /** Replaces the whole at once, so that no reader sees a half. */
  write(credentials: Omit<StoredCredentials, 'endpoint'>): void {
    mkdirSync(this.#directory, { recursive: true, mode: 0o700 });
    const temporary = `${this.file}.${randomSecret('')}`;
    const text = JSON.stringify({ endpoint: this.#endpoint, ...credentials }, undefined, 2);
    writeFileSync(temporary, `${text}\n`, { mode: 0o600, flag: 'wx' });
    renameSync(temporary, this.file);
  }

  forget(): void {
    rmSync(this.file, { force: true });
  }
}
