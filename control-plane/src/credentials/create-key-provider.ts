import type { Clock } from '@sallyport/schema/platform';
import { FileKeys, type KeyProvider } from './key-provider.ts';
import { TransitKeys, type TransitOptions } from './transit-keys.ts';

/** Where the key-encryption key lives, as configured. */
export type KeySettings = { readonly file: string } | TransitOptions;

export function createKeyProvider(settings: KeySettings | undefined, clock: Clock): KeyProvider | undefined {
  if (settings === undefined) return undefined;
  return 'file' in settings ? new FileKeys(settings.file) : new TransitKeys(settings, clock);
}
