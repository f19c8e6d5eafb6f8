// Command protogen makes Go of .proto files, without protoc: it compiles them
// itself, and runs the two plugins as the main module has them, so that what is
// generated fits the libraries that it is built with.
//
//	protogen [-root dir] [-protos dir]
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

const module = "github.com/handover-dev/handover"

// plugins are packages of the main module's dependencies, with their options.
var plugins = []struct{ pkg, options string }{
	{"google.golang.org/protobuf/cmd/protoc-gen-go", "module=" + module},
	{"connectrpc.com/connect/cmd/protoc-gen-connect-go", "module=" + module + ",package_suffix=,simple=true"},
}

func main() {
	log.SetFlags(0)
	root := flag.String("root", ".", "directory of the main module")
	protos := flag.String("protos", "internal/ingest/scalekit/proto", "directory of the .proto files, from there")
	flag.Parse()
	if err := run(context.Background(), *root, *protos); err != nil {
		log.Fatal("protogen: ", err)
	}
}

func run(ctx context.Context, root, protos string) error {
	dir := filepath.Join(root, protos)
	names, err := find(dir)
	if err != nil {
		return fmt.Errorf("find .proto files: %w", err)
	}
	compiler := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{dir}}),
		SourceInfoMode: protocompile.SourceInfoStandard, // the comments
	}
	files, err := compiler.Compile(ctx, names...)
	if err != nil {
		return fmt.Errorf("compile: %w", err)
	}
	seen := make(map[string]bool)
	var all []*descriptorpb.FileDescriptorProto
	for _, file := range files {
		all = depthFirst(all, seen, file)
	}
	for _, plugin := range plugins {
		err := generate(ctx, root, plugin.pkg, &pluginpb.CodeGeneratorRequest{
			FileToGenerate: names,
			Parameter:      proto.String(plugin.options),
			ProtoFile:      all,
			// The comment at the top of a generated file names a compiler with its
			// version only if there is one: what is generated does not depend on it.
		})
		if err != nil {
			return fmt.Errorf("run %s: %w", plugin.pkg, err)
		}
	}
	return nil
}

// find returns the .proto files below dir, by the names they are imported with,
// in order.
func find(dir string) (names []string, err error) {
	err = fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(path, ".proto") {
			names = append(names, path)
		}
		return err
	})
	return names, err
}

// depthFirst appends a file behind those that it imports.
func depthFirst(all []*descriptorpb.FileDescriptorProto, seen map[string]bool, file protoreflect.FileDescriptor) []*descriptorpb.FileDescriptorProto {
	if seen[file.Path()] {
		return all
	}
	seen[file.Path()] = true
	for i := range file.Imports().Len() {
		all = depthFirst(all, seen, file.Imports().Get(i).FileDescriptor)
	}
	return append(all, protoutil.ProtoFromFileDescriptor(file))
}

// generate runs a plugin and writes what it makes.
func generate(ctx context.Context, root, pkg string, req *pluginpb.CodeGeneratorRequest) error {
	in, err := proto.Marshal(req)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "run", pkg)
	cmd.Dir, cmd.Stdin, cmd.Stderr = root, bytes.NewReader(in), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	var res pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(out, &res); err != nil {
		return err
	}
	if res.Error != nil {
		return fmt.Errorf("it says: %s", res.GetError())
	}
	for _, file := range res.File {
		path := filepath.Join(root, filepath.FromSlash(file.GetName()))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(file.GetContent()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
