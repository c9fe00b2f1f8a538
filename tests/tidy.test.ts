import { describe, expect, test } from 'vitest';
import {
  ambientTimeAndIdentity,
  badFileNames,
  badFolders,
  bareRevisions,
  consoleCalls,
  environmentReads,
  longFiles,
  longFunctions,
  machinePaths,
  synonymsUsed,
  testsNotRun,
  unfinishedComments,
} from './tidy/code-rules.ts';
import {
  contractFence,
  dataPlaneFence,
  foundationFence,
  importProblems,
  layerFence,
  packageFence,
  packageHome,
  sdkPartsInTheDataPlane,
  socketFence,
  stageFence,
  tablesFence,
} from './tidy/import-rules.ts';
import { readSourceTree } from './tidy/source-tree.ts';

const { files, folders } = readSourceTree();

test('every package is looked at', () => {
  const packages = new Set(files.map(({ packageName }) => packageName));
  expect([...packages].sort()).toEqual(['cli', 'control-plane', 'data-plane', 'schema', 'tests']);
});

describe('imports', () => {
  test.each([
    ['packages import only what lies below them', packageFence],
    ['contracts do not reach for the platform', contractFence],
    ['a slice reads no tables but its own', tablesFence],
    ['resolvers call services and services know no GraphQL', layerFence],
    ['audit, access and the context import no slice', foundationFence],
    ['the folders of the data plane keep their direction', dataPlaneFence],
    ['pipeline stages never import each other', stageFence],
    ['pipeline, bridge and envelope code know no sockets', socketFence],
    ['a package is imported only where it lives', packageHome],
  ])('%s', (_guarantee, rule) => {
    expect(importProblems(files, rule)).toEqual([]);
  });

  test('the data plane uses no server, client or transport of the SDK', () => {
    expect(files.flatMap(sdkPartsInTheDataPlane)).toEqual([]);
  });
});

describe('code', () => {
  test.each([
    ['functions fit on a screen', longFunctions],
    ['files stay short', longFiles],
    ['the environment is read in config.ts alone', environmentReads],
    ['only main.ts prints', consoleCalls],
    ['time and identity are passed in', ambientTimeAndIdentity],
    ['files are named for what is in them', badFileNames],
    ['one thing has one word', synonymsUsed],
    ['a revision says which one it is', bareRevisions],
    ['comments hold no tasks and no tickets', unfinishedComments],
    ['no path of a developer machine is written down', machinePaths],
    ['every test runs', testsNotRun],
  ])('%s', (_guarantee, rule) => {
    expect(files.flatMap((file) => rule(file))).toEqual([]);
  });

  test('folders are named for what is in them and hold more than one file', () => {
    expect(folders.flatMap(badFolders)).toEqual([]);
  });
});
