import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { startEmbeddedPostgres } from '@sallyport/cli';
import { createKeyProvider, CredentialVault, openDatabase } from '@sallyport/control-plane/credentials';
import { migrate } from '@sallyport/control-plane/migrate';
import { createEgress, parseEgressAllowList, systemClock } from '@sallyport/schema/platform';
import { FakeAuthorizationServer } from '../credentials/fake-authorization-server.ts';
import { replica, resource, storeConnection } from '../credentials/refresh-kit.ts';
import { Figures } from './figures.ts';

const replicaCount = 3;
const callsEach = 50;

/** Cycles in which many calls in several processes want one token anew, which may be refreshed once. */
export async function measureRefreshes(
  { cycles }: { readonly cycles: number },
  directory: string,
  print: (line: string) => void,
  atEnd: (stop: () => Promise<void>) => void,
): Promise<Figures> {
  const postgres = await startEmbeddedPostgres({ directory: join(directory, 'postgres') });
  atEnd(() => postgres.stop());
  const as = await new FakeAuthorizationServer().start();
  atEnd(() => as.stop());
  as.resource = resource;
  const file = join(directory, 'keys');
  writeFileSync(file, `first ${randomBytes(32).toString('base64')}\n`);
  const parts = { vault: new CredentialVault(createKeyProvider({ file }, systemClock)), clock: systemClock };
  const egress = createEgress({ allow: parseEgressAllowList('127.0.0.1/32:1-65535').allow });
  atEnd(() => egress.close());
  const databases = Array.from({ length: replicaCount }, () => openDatabase({ url: postgres.url, connectionsMax: 3 }));
  for (const database of databases) atEnd(() => database.close());
  const [first] = databases;
  if (first === undefined) throw new Error('there is no database');
  await migrate(first.raw);
  const id = await storeConnection(first, as, parts);
  const replicas = databases.map((database) => replica(database, egress, parts));
  let errors = 0;
  const startedAt = performance.now();
  for (let cycle = 1; cycle <= cycles; cycle++) {
    const calls = replicas.flatMap((one) => Array.from({ length: callsEach }, () => one.renew(id, cycle)));
    for (const outcome of await Promise.allSettled(calls)) {
      if (outcome.status === 'rejected' || !as.live.has(outcome.value.tokens.accessToken)) errors++;
    }
  }
  const seconds = (performance.now() - startedAt) / 1000;
  print(`${cycles} cycles of ${replicaCount} processes with ${callsEach} calls each`);
  const figures = new Figures(print);
  figures.add('calls that got no token, or one that is not taken', errors, '', { most: 0 });
  figures.add('families revoked', as.familiesRevoked, '', { most: 0 });
  figures.add('requests for a refresh beyond one in each cycle', as.asked('/token', 'refresh_token') - cycles, '', {
    most: 0,
  });
  figures.add('refreshes', cycles / seconds, '/s');
  return figures;
}
