import { type WebhookEntry, webhookEntrySchema } from '@sallyport/schema';
import type { StoredSigningKey, WebhookRow } from './inspection.tables.ts';

/** The base64 of a signing key, or undefined where it does not open. */
export type OpenSigningKey = (webhookId: string, key: StoredSigningKey) => string | undefined;

/** What a key is sealed for: it opens in no other row. */
export function signingKeyPurpose(webhookId: string, keyId: string): string {
  return `sallyport.webhookKey.v1|${webhookId}|${keyId}`;
}

/** Opens what the fleet's vault sealed. */
export function signingKeyOpener(vault: { open(purpose: string, sealed: string): string | undefined }): OpenSigningKey {
  return (webhookId, { id, sealed }) => vault.open(signingKeyPurpose(webhookId, id), sealed);
}

export interface CompiledWebhookRow {
  /** Undefined where it cannot be published: policies that name it then let nothing through. */
  readonly entry: WebhookEntry | undefined;
  readonly problems: readonly { readonly path: string; readonly message: string }[];
}

/** A webhook as nodes receive it. What is off goes without keys. Equal rows give equal entries. */
export function compileWebhookRow(row: WebhookRow, openKey: OpenSigningKey): CompiledWebhookRow {
  const opened = row.mode === 'off' ? [] : row.signingKeys.map((key) => ({ key, secret: openKey(row.id, key) }));
  const candidate = {
    id: row.id,
    version: row.revision,
    url: row.url,
    mode: row.mode,
    events: row.events.toSorted(),
    failMode: row.failMode,
    content: row.content,
    deadlineMs: row.deadlineMs,
    payloadBytesMax: row.payloadBytesMax,
    mutablePaths: row.mutablePaths.toSorted(),
    algorithm: row.algorithm,
    ...(row.interceptor === null ? {} : { interceptor: row.interceptor }),
    signingKeys: opened.flatMap(({ key, secret }) => {
      const notAfter = key.notAfter === null ? null : Date.parse(key.notAfter);
      return secret === undefined ? [] : [{ secret, notAfter }];
    }),
  };
  const parsed = webhookEntrySchema.safeParse(candidate);
  const problems = parsed.success
    ? []
    : parsed.error.issues.map(({ path, message }) => ({ path: path.join('.'), message }));
  for (const { key, secret } of opened) {
    if (secret === undefined) problems.push({ path: 'signingKeys', message: `the key ${key.id} does not open` });
  }
  return { entry: parsed.success ? parsed.data : undefined, problems };
}
