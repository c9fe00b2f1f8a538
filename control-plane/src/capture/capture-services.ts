import type { Clock, Log } from '@sallyport/schema/platform';
import type { RaiseAlarm } from '../audit/ingest.service.ts';
import type { CredentialVault } from '../credentials/credential-vault.ts';
import type { Database } from '../database/client.ts';
import { PayloadService } from './payload.service.ts';
import { PayloadKeyService } from './payload-key.service.ts';
import { PayloadSampleService } from './payload-sample.service.ts';
import { PayloadStore } from './payload-store.service.ts';

/** All that has to do with captured payloads, but for taking them in. */
export function captureServices(options: {
  readonly database: Database;
  readonly vault: CredentialVault;
  readonly onAlarm: RaiseAlarm;
  readonly clock: Clock;
  readonly log: Log;
}) {
  const { database } = options;
  const payloadKeys = new PayloadKeyService(options);
  const payloads = new PayloadService(database, payloadKeys);
  const payloadStore = new PayloadStore(options);
  return {
    payloadKeys,
    payloads,
    payloadStore,
    payloadSamples: new PayloadSampleService(database, payloads, payloadStore),
  };
}
