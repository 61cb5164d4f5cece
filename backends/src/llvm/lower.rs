//! MLIR through its dialects to LLVM IR, and LLVM IR to code.

use super::{OPTIONS, Stage, ToolError, target};
use inkwell::{
    GlobalVisibility,
    attributes::{Attribute, AttributeLoc},
    context::Context as LlvmContext,
    llvm_sys::{
        LLVMDiagnosticSeverity,
        core::{
            LLVMContextSetDiagnosticHandler, LLVMDisposeMessage, LLVMGetDiagInfoDescription, LLVMGetDiagInfoSeverity,
        },
        prelude::LLVMDiagnosticInfoRef,
    },
    module::{Linkage, Module as LlvmModule},
    passes::PassBuilderOptions,
    targets::FileType,
};
use kiln_kernels::{
    Level,
    abi::{Convention, ModuleBuilder, SHARED},
};
use melior::{
    Context,
    dialect::{DialectHandle, DialectRegistry},
    ir::{Module, operation::OperationLike},
    pass::{PassManager, conversion, transform},
    utility::register_all_llvm_translations,
};
use std::{
    cell::RefCell,
    ffi::{CStr, c_void},
    rc::Rc,
    sync::PoisonError,
};

/// LLVM's number of the calling convention of functions that a driver launches.
const PTX_KERNEL: u32 = 71;

/// Compiles kernels one after the other on one thread.
pub struct Compiler {
    mlir: Context,
    diagnostics: Rc<RefCell<Vec<String>>>,
}

impl Default for Compiler {
    fn default() -> Self {
        Compiler::new()
    }
}

impl Compiler {
    pub fn new() -> Compiler {
        let registry = DialectRegistry::new();
        let dialects = [
            DialectHandle::func(),
            DialectHandle::scf(),
            DialectHandle::arith(),
            DialectHandle::cf(),
            DialectHandle::llvm(),
        ];
        for dialect in &dialects {
            dialect.insert_dialect(&registry);
        }
        // One module is small; without threads the order of diagnostics is fixed.
        let mlir = Context::new_with_registry(&registry, false);
        mlir.load_all_available_dialects();
        register_all_llvm_translations(&mlir);
        let diagnostics: Rc<RefCell<Vec<String>>> = Rc::default();
        let collected = diagnostics.clone();
        mlir.attach_diagnostic_handler(move |d| {
            collected.borrow_mut().push(d.to_string());
            true
        });
        Compiler { mlir, diagnostics }
    }

    /// Compiles what `emit` builds for `level`, up to `stage`; `name` is for messages, and of a GPU that of the kernel.
    pub fn compile(
        &self,
        name: &str,
        level: impl Into<Level>,
        stage: Stage,
        emit: impl FnOnce(&mut ModuleBuilder<'_>),
    ) -> Result<Vec<u8>, ToolError> {
        let level = level.into();
        if !stage.serves(level) {
            return Err(ToolError::new(name, "llvm", format!("{} has no form {stage:?}", level.name())));
        }
        self.diagnostics.borrow_mut().clear();
        let mut builder = ModuleBuilder::new(&self.mlir);
        emit(&mut builder);
        let (mut module, convention) = (builder.module, builder.convention);
        if !module.as_operation().verify() {
            return Err(self.mlir_error(name, "the module does not verify"));
        }
        if stage == Stage::Mlir {
            return Ok(module.as_operation().to_string().into_bytes());
        }
        self.lower(&mut module).map_err(|e| self.mlir_error(name, &e.to_string()))?;
        let _unchanged = OPTIONS.read().unwrap_or_else(PoisonError::into_inner);
        let llvm = LlvmContext::create();
        let errors = collect_errors(&llvm);
        let result = self.generate(name, (level, convention), stage, &module, &llvm);
        let messages = errors.borrow().join("; ");
        if messages.is_empty() { result } else { Err(ToolError::new(name, "llvm", messages)) }
    }

    fn mlir_error(&self, name: &str, what: &str) -> ToolError {
        let messages = self.diagnostics.borrow().join("; ");
        ToolError::new(name, "mlir", if messages.is_empty() { what.to_string() } else { messages })
    }

    fn lower(&self, module: &mut Module<'_>) -> Result<(), melior::Error> {
        let passes = PassManager::new(&self.mlir);
        for pass in [
            transform::create_cse(),
            conversion::create_scf_to_control_flow(),
            conversion::create_arith_to_llvm(),
            conversion::create_func_to_llvm(),
            conversion::create_control_flow_to_llvm(),
            conversion::create_reconcile_unrealized_casts(),
        ] {
            passes.add_pass(pass);
        }
        passes.run(module)
    }

    fn generate(
        &self,
        name: &str,
        (level, convention): (Level, Convention),
        stage: Stage,
        module: &Module<'_>,
        llvm: &LlvmContext,
    ) -> Result<Vec<u8>, ToolError> {
        let error = |message: String| ToolError::new(name, "llvm", message);
        // Both crates declare the same opaque C types, each for itself.
        let raw = unsafe { mlir_sys::mlirTranslateModuleToLLVMIR(module.as_operation().to_raw(), llvm.raw().cast()) };
        if raw.is_null() {
            return Err(self.mlir_error(name, "no translation to LLVM IR"));
        }
        let module = unsafe { LlvmModule::new(raw.cast()) };
        module.set_source_file_name("");
        for function in module.get_functions() {
            target::keep_together(llvm, function);
            for (key, value) in target::function_attributes(level) {
                function.add_attribute(AttributeLoc::Function, llvm.create_string_attribute(key, value));
            }
            match convention {
                Convention::Cuda { threads, maps, .. } if function.get_name().to_bytes() == name.as_bytes() => {
                    function.set_call_conventions(PTX_KERNEL);
                    let threads = llvm.create_string_attribute("nvvm.reqntid", &threads.to_string());
                    function.add_attribute(AttributeLoc::Function, threads);
                    // Without it ptxas spills registers for the sake of more blocks at a time.
                    let blocks = llvm.create_string_attribute("nvvm.minctasm", "1");
                    function.add_attribute(AttributeLoc::Function, blocks);
                    let params = function.count_params();
                    (params - maps as u32..params).for_each(|param| target::make_map(llvm, function, param));
                }
                Convention::Cuda { .. } if function.count_basic_blocks() > 0 => {
                    function.set_linkage(Linkage::Internal);
                    // The threads of a block meet inside, so that a call stays where all of them come by.
                    let together = llvm.create_enum_attribute(Attribute::get_named_enum_kind_id("convergent"), 0);
                    function.add_attribute(AttributeLoc::Function, together);
                }
                // Called without a detour, and not exported.
                Convention::Cpu if is_shared(&function.get_name().to_string_lossy()) => {
                    function.as_global_value().set_visibility(GlobalVisibility::Hidden);
                }
                _ => {}
            }
        }
        let foreign =
            module.get_functions().map(|f| (f.count_basic_blocks(), f.get_name().to_string_lossy().into_owned()));
        let foreign: Vec<String> = foreign
            .filter(|(blocks, name)| *blocks == 0 && !target::has_code(name, level) && !is_shared(name))
            .map(|(_, name)| name)
            .collect();
        if !foreign.is_empty() {
            return Err(error(format!("{} has no code for {}", level.name(), foreign.join(", "))));
        }
        module.verify().map_err(|e| error(e.to_string()))?;
        let machine = target::machine(level)?;
        module.set_triple(&machine.get_triple());
        module.set_data_layout(&machine.get_target_data().get_data_layout());
        let options = PassBuilderOptions::create();
        // Kernels are vectorised where they are written.
        options.set_loop_vectorization(false);
        options.set_loop_slp_vectorization(false);
        module.run_passes("default<O3>", &machine, options).map_err(|e| error(e.to_string()))?;
        let file = match stage {
            Stage::Llvm => return Ok(module.print_to_string().to_bytes().to_vec()),
            Stage::Asm | Stage::Ptx => FileType::Assembly,
            Stage::Obj | Stage::Mlir => FileType::Object,
        };
        let buffer = machine.write_to_memory_buffer(&module, file).map_err(|e| error(e.to_string()))?;
        Ok(buffer.as_slice().to_vec())
    }
}

/// Whether the function is one that modules of one shared object share.
fn is_shared(name: &str) -> bool {
    name.ends_with(SHARED)
}

/// LLVM's own handler prints an error and ends the process; this one keeps the messages. They live as long as `llvm`
/// may report, so the box is dropped after it.
fn collect_errors(llvm: &LlvmContext) -> Box<RefCell<Vec<String>>> {
    extern "C" fn handle(info: LLVMDiagnosticInfoRef, to: *mut c_void) {
        unsafe {
            if LLVMGetDiagInfoSeverity(info) == LLVMDiagnosticSeverity::LLVMDSError {
                let text = LLVMGetDiagInfoDescription(info);
                let message = CStr::from_ptr(text).to_string_lossy().into_owned();
                LLVMDisposeMessage(text);
                (*to.cast::<RefCell<Vec<String>>>()).borrow_mut().push(message);
            }
        }
    }
    let errors = Box::new(RefCell::new(vec![]));
    let to: *const RefCell<Vec<String>> = &*errors;
    unsafe { LLVMContextSetDiagnosticHandler(llvm.raw(), Some(handle), to.cast_mut().cast()) };
    errors
}
