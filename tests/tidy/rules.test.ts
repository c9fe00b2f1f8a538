import { describe, expect, test } from 'vitest';
import * as code from './code-rules.ts';
import * as imports from './import-rules.ts';
import { parseSource } from './source-tree.ts';

describe('a rule about imports finds what it is for', () => {
  test.each([
    ['control-plane/src/app.ts', '@sallyport/data-plane', imports.packageFence],
    ['schema/src/decide.ts', '@sallyport/control-plane', imports.packageFence],
    ['data-plane/src/server.ts', '../../tests/kit/redis.ts', imports.packageFence],
    ['schema/src/decide.ts', './platform/clock.ts', imports.contractFence],
    ['control-plane/src/catalog/server.service.ts', '../identity/identity.tables.ts', imports.tablesFence],
    ['control-plane/src/catalog/server.resolver.ts', './catalog.tables.ts', imports.layerFence],
    ['control-plane/src/catalog/server.service.ts', './server.graphql.ts', imports.layerFence],
    ['control-plane/src/audit/audit.service.ts', '../catalog/server.service.ts', imports.foundationFence],
    ['control-plane/src/context.ts', './identity/principal.service.ts', imports.foundationFence],
    ['data-plane/src/runtime/sync-client.ts', '../pipeline/exchange.ts', imports.dataPlaneFence],
    ['data-plane/src/pipeline/route.ts', './authorize.ts', imports.stageFence],
    ['data-plane/src/pipeline/forward.ts', 'node:http', imports.socketFence],
    ['data-plane/src/bridge/sealed-session.ts', 'undici', imports.socketFence],
    ['data-plane/src/runtime/sync-client.ts', '@modelcontextprotocol/client', imports.packageHome],
    ['control-plane/src/app.ts', 'graphql', imports.packageHome],
    ['data-plane/src/server.ts', 'bullmq', imports.packageHome],
  ])('%s may not import %s', (path, specifier, rule) => {
    const file = parseSource(path, `import { something } from '${specifier}';\nsomething();\n`);
    expect(imports.importProblems([file], rule)).toHaveLength(1);
  });

  test('re-exports and dynamic imports are imports', () => {
    const text = `export * from '@sallyport/data-plane';\nawait import('@sallyport/cli');\n`;
    const file = parseSource('control-plane/src/index.ts', text);
    expect(imports.importProblems([file], imports.packageFence)).toHaveLength(2);
  });

  test('a live part of the SDK in the data plane is found', () => {
    const text = `import { classifyInboundRequest, type Client } from '@modelcontextprotocol/client';\n`;
    const file = parseSource('data-plane/src/mcp/envelope.ts', text);
    expect(imports.sdkPartsInTheDataPlane(file)).toEqual(['data-plane/src/mcp/envelope.ts imports Client of the SDK']);
  });
});

describe('a rule about code finds what it is for', () => {
  const task = ['TO', 'DO'].join('');
  test.each([
    ['a long function', `function long() {\n${'  step();\n'.repeat(70)}}\n`, code.longFunctions],
    ['a long file', '// a line\n'.repeat(501), code.longFiles],
    ['the environment', `const home = process.env['HOME'];\n`, code.environmentReads],
    ['a print', `console.log('hello');\n`, code.consoleCalls],
    ['the wall clock', `const at = Date.now();\n`, code.ambientTimeAndIdentity],
    ['a date without a time', `const at = new Date();\n`, code.ambientTimeAndIdentity],
    ['a synonym', `const downstreamUrl = 1;\n`, code.synonymsUsed],
    ['a bare revision', `const revision = 1;\n`, code.bareRevisions],
    ['a task', `// ${task}: later\n`, code.unfinishedComments],
    ['a ticket', `// see #123\n`, code.unfinishedComments],
    ['a path of one machine', `const file = '/root/data';\n`, code.machinePaths],
  ])('%s', (_what, text, rule) => {
    expect(rule(parseSource('data-plane/src/server.ts', text))).toHaveLength(1);
  });

  test('names that say nothing', () => {
    for (const name of ['types.ts', 'utils.ts', 'MyThing.ts', 'pipeline/index.ts']) {
      expect(code.badFileNames(parseSource(`data-plane/src/${name}`, ''))).toHaveLength(1);
    }
    expect(code.badFolders({ path: 'data-plane/src/utils', entries: ['a.ts', 'b.ts'] })).toHaveLength(1);
    expect(code.badFolders({ path: 'data-plane/src/alone', entries: ['a.ts'] })).toHaveLength(1);
  });

  test('a test that does not run', () => {
    const only = ['test', 'only'].join('.');
    expect(code.testsNotRun(parseSource('tests/one.test.ts', `${only}('one', () => {});\n`))).toHaveLength(1);
  });
});
