import { hash } from 'node:crypto';
import type { Runtime } from '../runtime/runtime.ts';

const bearerForm = /^bearer +(sp_[A-Za-z0-9_-]{16,128})$/i;

/** The digest of the API key a request presents; that of no text where it presents none. */
export function presentedKeyHash(headers: ReadonlyMap<string, string>): string {
  return hash('sha256', bearerForm.exec(headers.get('authorization') ?? '')?.[1] ?? '');
}

/** Whether the request presents a key that exists; of whom it is, and whether it may be used, is for `authenticate`. */
export function presentsKnownKey(headers: ReadonlyMap<string, string>, runtime: Runtime): boolean {
  return runtime.apiKeyByHash.has(presentedKeyHash(headers));
}
