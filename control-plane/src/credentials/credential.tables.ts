import { credentialModes } from '@sallyport/schema';
import { jsonb, pgTable, text, timestamp, uuid } from 'drizzle-orm/pg-core';
import type { CredentialSettings } from './credential-form.ts';

const instant = (name: string) => timestamp(name, { withTimezone: true });

/** What every table with sealed secrets has: the secret, and its data key as the key-encryption key wrapped it. */
export const sealedColumns = {
  sealed: text(),
  wrappedKey: text('wrapped_key'),
  keyId: text('key_id'),
};

/** What a server is called with on behalf of everybody. */
export const serverCredentials = pgTable('server_credentials', {
  id: uuid().primaryKey(),
  serverId: uuid('server_id').notNull(),
  mode: text({ enum: credentialModes }).notNull(),
  settings: jsonb().$type<CredentialSettings>().notNull(),
  /** Where it may be sent: of the server's URL when it was set. */
  origin: text().notNull(),
  ...sealedColumns,
  createdAt: instant('created_at').notNull(),
  rotatedAt: instant('rotated_at').notNull(),
});
export type ServerCredentialRow = typeof serverCredentials.$inferSelect;
